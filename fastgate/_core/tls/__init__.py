"""TLS as libssl does it: the keyring with the secrets, contexts, and the choice of certificates.

How a connection reads and writes through it is in `io/tls.pyx`.
"""
