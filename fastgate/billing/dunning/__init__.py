"""Dunning: charging an invoice again after a failure, and what happens if it is never paid."""
