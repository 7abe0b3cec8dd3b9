"""parse_bench: how long the parse of a head takes."""
