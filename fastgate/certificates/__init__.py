"""Certificates, keys and authorities: read, checked, and packed into a keyring.

What belongs here is everything about their content: which certificate is the leaf, whether the key
fits, what is expired. `model/tls.py` says which there are and who uses them, `_core/tls/keyring.py`
how workers get them, `runtime/control/keyring.py` when. The modules import `cryptography`, which
takes 15 MB, so a process imports them when it first has a certificate. `acme/` orders and renews
certificates.
"""
