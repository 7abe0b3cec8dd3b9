"""authorities: hosts and ports, parsed for Python."""
