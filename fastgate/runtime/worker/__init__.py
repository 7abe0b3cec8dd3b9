"""A worker process: one event loop, one engine, and the Python handlers it runs."""
