"""json_shape: what parsed JSON does not tell about itself (see json_shape.pyx)."""
