PHRASES: dict[int, str]
"""Reason phrases by status."""
