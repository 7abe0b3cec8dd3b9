"""Calls to upstreams: choosing a target, connecting or reusing, retrying, deadlines."""
