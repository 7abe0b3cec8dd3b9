"""bounds: whether everything in an image refers to something within it."""
