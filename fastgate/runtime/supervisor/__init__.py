"""The supervisor process: sockets, shared memory and the lives of its children."""
