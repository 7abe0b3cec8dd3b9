"""Python handlers: how a request is given to Python, and what Python may ask of the engine."""
