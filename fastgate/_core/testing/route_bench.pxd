"""route_bench: how long the lookup of a route takes, as in a request."""
