"""From a configuration document to the image that workers serve from.

This package reads documents and resolves references, compares and records revisions, and compiles.
`fastgate.model` defines what a configuration may contain; `fastgate._core` defines the layout of an
image and reads it.
"""
