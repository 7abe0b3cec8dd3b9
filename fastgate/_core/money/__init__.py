"""Wallets, holds and usage records: money in shared memory, exact even when a process is killed.

Prices and plans are in the snapshot; `exchange.charging` determines what a request costs.
"""
