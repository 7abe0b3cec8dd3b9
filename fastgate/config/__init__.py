"""From a configuration document to the image that workers serve from.

Here belong reading documents and resolving references, comparing and recording revisions, and
compiling. What a configuration may say is in `fastgate.model`; how an image is laid out and read is
in `fastgate._core`.
"""
