"""lookup_bench: how long the lookup of a key takes (see lookup_bench.pyx)."""
