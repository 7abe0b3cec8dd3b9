"""Packages are installed into systems of their own. `make packages` builds them and runs this."""
