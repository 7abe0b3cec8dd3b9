"""Python handlers: how a request reaches Python, and what Python may ask of the engine."""
