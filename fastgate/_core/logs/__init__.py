"""The access log: records from the ring in shared memory to lines of text."""
