"""The texts that a refused client reads: one table of remedies, and the templates rendered from it.

The reasons themselves are in `fastgate._core.reason`, since workers choose them. Why a particular
request was refused is in `fastgate.billing.diagnosis`.
"""
