"""Notices to customers: what they say, when they are due, and their delivery by mail or webhook."""
