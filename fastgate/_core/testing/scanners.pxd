"""scanners: each scanner of chars.pxd by itself, and in the parser."""
