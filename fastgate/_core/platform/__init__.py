"""What the machine and the C library provide: system calls, atomic operations, buffers, bytes.

Nothing here knows about connections, requests or amounts of money.
"""
