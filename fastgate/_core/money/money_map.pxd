"""money_map: money under way, for Python: what workers held and took, and what control collects."""
