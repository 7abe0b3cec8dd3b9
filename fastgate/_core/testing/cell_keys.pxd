"""cell_keys: the hashes that keys of cells are made of."""
