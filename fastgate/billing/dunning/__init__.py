"""Dunning: charging an invoice again after a failure, and what follows when it is never paid."""
