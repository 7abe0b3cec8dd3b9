"""Issuers of tokens in the control process: where their keys come from, and what workers get.

What belongs here: reading keys (JWKS, PEM), discovery, fetching, when to fetch again, the last good
keys on disk, and the entries of the keyring. Tokens are verified by workers, in the core.
"""
