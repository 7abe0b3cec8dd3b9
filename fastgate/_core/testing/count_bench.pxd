"""count_bench: what counting one request costs."""
