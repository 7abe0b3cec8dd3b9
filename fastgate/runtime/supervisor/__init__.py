"""The supervisor process: sockets, shared memory and its child processes."""
