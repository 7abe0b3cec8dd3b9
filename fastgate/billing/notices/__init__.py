"""Notices to customers: their text, when they are due, and delivery by mail or webhook."""
