"""traffic: what a route does with its traffic besides forwarding it, in the image. The flags: snapshot.pxd."""
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from fastgate._core.snapshot.refs cimport str_ref, table_ref

cdef enum:
    WHOLE = 1000000           # all requests, in the parts that shares are given in

cdef struct split_rec:        # a service that gets part of a route's requests
    table_ref when            # predicate: requests that it always gets; empty: none
    uint32_t policy           # index: the route's, if this were its service
    uint32_t row              # metrics row; stable over reloads
    uint32_t weight           # parts of WHOLE
    uint32_t tag              # names it in cookies; 0: cookies do not lead to it

# Each part is read only if its RouteFlag is set.
cdef struct traffic_rec:
    # ROUTE_FAULT
    uint64_t delay_ns             # 0: none
    table_ref fault_when          # predicate: of the requests concerned; empty: all
    uint16_t delay_permille       # of these requests
    uint16_t abort_permille
    uint16_t abort_status         # 0: none
    uint16_t spare
    # ROUTE_MAINTENANCE
    str_ref maintenance_message   # what its operator says; len 0: nothing
    table_ref maintenance_allow   # address_rule: who may pass
    uint32_t maintenance_wait_s   # for Retry-After
    # ROUTE_SPLIT
    uint32_t split_by             # SplitBy
    table_ref split               # split_rec; the route's own service is the last
    table_ref split_cookie        # one sticky_rec, if it is by cookie
    uint64_t split_seed           # of hashes
    # ROUTE_MIRROR
    uint32_t mirror_service       # index
    uint32_t mirror_share         # parts of WHOLE
    str_ref mirror_host           # Host to send; len 0: the client's or the target's
    uint32_t mirror_client_host   # 1: the client's
    uint32_t spare2
