"""render_bench: how long a line of the access log takes."""
