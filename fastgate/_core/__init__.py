"""The core: the data plane of one worker, in Cython.

Each folder's `__init__` describes what belongs in it. The modules directly in this folder are
used by most folders: the reasons (`reason`), the C state of an engine (`state`) and, at the top,
the `engine` itself.
"""
