"""One request with its response, phase by phase.

Who calls, what the request costs, where it goes, how it is answered or refused.
"""
