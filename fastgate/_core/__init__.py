"""The core: the data plane of one worker, in Cython.

Each folder opens with what belongs in it. What stands directly here is used by most folders:
the reasons (`reason`), the C state of an engine (`state`) and, at the top, the `engine` itself.
"""
