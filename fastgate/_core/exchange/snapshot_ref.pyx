"""snapshot_ref: which configuration an exchange holds, and how it releases it.

An exchange keeps the snapshot that it was routed with, and a replaced snapshot stays mapped until the
last of its exchanges has released it. A tunnel, an event stream or a long download may last for days. It
would keep a whole image mapped for each generation in which one began. So once the answer has begun,
everything that may still be read from the image is copied:

    the exchange      generation, flags and hidden parameters, for the log; name, cap, deadline and
                      flags of the route
    its calls         deadlines, pooling and ejection rules of the upstream; the target with its name
    for the end       kind and period of each limit that it took from; the service's slot

and the exchange releases the image. The copy is about 1.5 KiB. It is made at most once for an exchange, and
only if its snapshot has been replaced: by a walk over all connections after `install`, a few hundred in a
turn of the loop, or, if the answer was not there yet, when it begins.

An exchange that waits for its answer needs the whole image (to retry, and for the rules of the
answer). So does one with a running Python handler, which may ask for any upstream by name.
"""
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy

from fastgate._core.snapshot.snapshot cimport (
    NONE32, limit_rec, policy_rec, route_rec, service_rec, snapshot_header, snap_str, str_ref, target_rec, table_ref,
    upstream_rec)
from fastgate._core.state cimport (
    EX_ENDED, EX_REFUSED, EX_RESPONSE_STARTED, EX_SUSPENDED, call, downstream)

cdef enum:
    WALK = 256                # connections looked at in one turn

cdef struct called:           # of one call
    upstream_rec group
    target_rec target

cdef struct kept:             # takes the place of an image: strings are found from `head` on
    snapref ref               # must be first: the engine frees it
    snapshot_header head
    route_rec route
    policy_rec policy
    service_rec service
    called main
    called relaying
    # followed by a limit_rec for each limit that was taken from, and the names


cdef inline uint32_t name_size(const target_rec *t) noexcept nogil:
    return t.name.len if t is not NULL else 0


cdef char *keep_name(const snapshot_header *s, str_ref *name, kept *k, char *room) noexcept nogil:
    """`name` refers into the image `s`; afterwards, into the copy. Returns the room that is left."""
    memcpy(room, snap_str(s, name[0]), name.len)
    name.off = <uint32_t>(room - <char *>&k.head)
    return room + name.len


cdef char *keep_call(const snapshot_header *s, call *x, called *at, kept *k, char *room) noexcept nogil:
    cdef str_ref nothing = str_ref(off=0, len=0)
    cdef table_ref none = table_ref(off=0, count=0)
    if x.group is not NULL:
        at.group = x.group[0]
        at.group.name = nothing
        at.group.hash_header = nothing
        at.group.targets = none
        at.group.sticky = none
        x.group = &at.group
    if x.target is not NULL:
        at.target = x.target[0]
        at.target.authority = nothing
        at.target.path = nothing
        at.target.host = nothing
        at.target.sticky = nothing
        room = keep_name(s, &at.target.name, k, room)
        x.target = &at.target
    x.service = &k.service if x.service is not NULL else NULL
    x.snap = &k.head
    return room


cdef void unpin_retired(core *c, exchange *e) noexcept nogil:
    cdef snapref *left = e.ref
    cdef const snapshot_header *s = e.snap
    cdef call *relaying = e.relaying if e.relaying is not &e.main else NULL
    cdef kept *k
    cdef limit_rec *limits
    cdef char *room
    cdef size_t size
    cdef uint32_t i
    if left is NULL or left.object is NULL or not e.flags & EX_RESPONSE_STARTED \
            or e.flags & (EX_SUSPENDED | EX_REFUSED | EX_ENDED) or e.route is NULL:
        return
    size = sizeof(kept) + e.ntaken * sizeof(limit_rec) + e.route.name.len + name_size(e.main.target) \
        + s.hidden_params.len
    if e.service is not NULL:
        size += e.service.name.len
    if relaying is not NULL:
        size += name_size(relaying.target)
    k = <kept *>calloc(1, size)
    if k is NULL:
        return                           # it keeps the image
    k.ref.snap = &k.head
    k.ref.in_flight = 1
    k.head.generation = s.generation
    k.head.flags = s.flags
    limits = <limit_rec *>(k + 1)
    room = <char *>(limits + e.ntaken)
    k.route.name = e.route.name
    k.route.identity = e.route.identity
    k.route.slot = e.route.slot
    room = keep_name(s, &k.route.name, k, room)
    k.head.hidden_params = s.hidden_params
    room = keep_name(s, &k.head.hidden_params, k, room)
    k.policy.body_cap = e.policy.body_cap
    k.policy.flags = e.policy.flags
    k.policy.deadline_ms = e.policy.deadline_ms
    k.policy.service = NONE32
    k.policy.handler = NONE32
    k.policy.static_response = NONE32
    k.policy.auth = NONE32
    k.policy.cors = NONE32
    if e.service is not NULL:
        k.service.identity = e.service.identity
        k.service.slot = e.service.slot
        k.service.attempts = e.service.attempts
        k.service.name = e.service.name
        room = keep_name(s, &k.service.name, k, room)
        e.service = &k.service
    for i in range(e.ntaken):
        limits[i].kind = e.took[i].limit.kind
        limits[i].period = e.took[i].limit.period
        e.took[i].limit = &limits[i]
    room = keep_call(s, &e.main, &k.main, k, room)
    if relaying is not NULL:
        keep_call(s, relaying, &k.relaying, k, room)
    e.tightest = NULL                    # its state was sent in the answer's head
    e.route = &k.route
    e.policy = &k.policy
    e.snap = &k.head
    e.ref = &k.ref
    leave_snapshot(c, left)


cdef void unpin_all(core *c) noexcept nogil:
    c.unpin_at = c.downs if c.retired is not NULL else NULL


cdef void unpin_some(core *c) noexcept nogil:
    cdef downstream *d = c.unpin_at
    cdef uint32_t i
    for i in range(WALK):
        if d is NULL:
            break
        if d.ex is not NULL:
            unpin(c, d.ex)
        d = d.next
    c.unpin_at = d
