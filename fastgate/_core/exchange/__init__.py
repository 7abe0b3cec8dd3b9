"""One request with its response, phase by phase.

Who calls, what it costs, where it goes, how it is answered or refused.
"""
