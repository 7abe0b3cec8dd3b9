"""hold_bench: how long a hold takes, from opening to its capture."""
