"""Pages for the people and programs that call: why a request was refused, and paying.

They are served by the control process below `/_fastgate/`, through the workers' listeners. What
operators use is in `fastgate.api`.
"""
