"""A worker process: one event loop, one engine, and its Python handlers."""
