"""money_map: money in progress, for Python: what workers held and took, and what control collects."""
