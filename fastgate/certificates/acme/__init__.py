"""Certificates from ACME authorities (RFC 8555), ordered and renewed automatically.

    configured ─▶ settings                    what is to be ordered, without the configuration
    service ── keeper ─┬─ schedule            one certificate: when it is ordered
                       ├─ renewal_info        what the authority says about that
                       ├─ order ─┬─ account   one attempt; the account, with its key
                       │         ├─ challenges ─ tokens      http-01, tls-alpn-01
                       │         ├─ client ─ call_thread     requests to the authority
                       │         └─ keys      private keys, requests for certificates
                       └─ storage ─▶ issued   `acme/` in the state directory; for keyrings

The packages `acme`, `josepy` and `requests` implement the protocol. They block, so each authority
has a thread for its requests (`call_thread`). They are imported when a certificate is first needed,
by `import_late`, as is everything here that needs them.

**Every step is on disk before the next one begins**, and a step that sends a request and stores the
answer runs completely in the thread. So whatever ends the process, or a task of it, between two
steps, the next attempt continues the order that was placed:

    account.json      the account's key; then its address
    order.json        the order's address, and the key of the certificate to come
    certificate.pem   the certificate with its key; then order.json is deleted

An order can only be lost between the moment when the authority accepts it and the moment when its
address is written. The next one is then a new order, and that one cannot be lost in the same way
without another kill at the same moment.

Names are proved by http-01 or tls-alpn-01. A wildcard needs dns-01, which is not supported.
"""
