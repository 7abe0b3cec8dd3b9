"""Wallets, holds and usage records: money in shared memory, exact even when a process is killed.

Prices and plans are in the snapshot; what a request costs is worked out in `exchange.charging`.
"""
