"""limit_bench: how long it takes to take from a rate limit or to count a quota."""
