"""auth: what a route asks callers for, in the image. The numbers of kinds and flags: snapshot.pxd."""
from libc.stdint cimport uint32_t

from fastgate._core.snapshot.refs cimport str_ref, table_ref

cdef struct auth_method:
    uint32_t kind             # AuthKind
    uint32_t flags            # AuthMethodFlag
    table_ref ids             # uint64_t: of issuers (keyring.issuer_id), or of authorities
    table_ref scopes          # scope_rule
    uint32_t upstream         # that is asked: index, or NONE32
    uint32_t timeout_ms       # for its answer
    str_ref path              # of what it is asked
    table_ref forwarded       # str_ref: lower-case names of the request's fields that it gets; empty: all
    table_ref lent            # str_ref: lower-case names of its answer's fields that the upstream gets
    str_ref consumer          # lower-case name of its answer's field with the consumer's id; len 0: none

cdef struct scope_rule:       # what tokens of requests with some methods need
    uint32_t methods          # bit (1 << Method)
    uint32_t reserved
    table_ref scopes          # str_ref: all must be granted

cdef struct auth_rec:
    uint32_t flags            # AuthFlag
    uint32_t reserved
    str_ref header            # lower-case name of the field with the key; len 0: none
    str_ref query             # query parameter; len 0: none
    str_ref challenge         # value for WWW-Authenticate
    table_ref methods         # auth_method
    table_ref owned           # str_ref: lower-case names of fields that upstreams get from the gateway alone
    str_ref anonymous         # digest of the consumer that requests without a credential count as; len 0: nobody
