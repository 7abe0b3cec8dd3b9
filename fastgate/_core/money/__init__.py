"""Wallets, holds and usage records: money in shared memory, exact whoever is killed when.

Prices and plans are in the snapshot; what a request costs is worked out in `exchange.charging`.
"""
