"""What the machine and the C library give: system calls, atomic operations, buffers, bytes.

Nothing here knows what a connection, a request or an amount of money is.
"""
