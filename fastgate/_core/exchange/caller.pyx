"""caller: the consumer that a credential belongs to, and whether their account and plan let them call."""
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcmp, memcpy

from fastgate._core.exchange.charging cimport charge_access
from fastgate._core.exchange.split cimport choose_service
from fastgate._core.reason cimport CREDENTIAL_UNKNOWN, NOT_SUBSCRIBED
from fastgate._core.shared.consumer_row cimport overrides_of
from fastgate._core.snapshot.snapshot cimport NONE32, ROUTE_SPLIT, plan_rec, snap_str, snap_table
from fastgate._core.tokens.verdicts cimport plan_in, verdict


cdef int admit_digest(core *c, exchange *e, const uint8_t *digest, int anonymous) noexcept nogil:
    cdef const consumer_row *row = NULL
    cdef const credential_entry *entry = NULL
    cdef int result
    if c.credentials is NULL:
        return 0 if anonymous else AUTH_ABSENT
    result = c.lookup_digest(c.credentials, digest, (<int64_t>c.loop.now + c.unix_offset) // 1000000000, &row, &entry)
    if result == CREDENTIAL_UNKNOWN:
        return 0 if anonymous else AUTH_ABSENT
    return admit_caller(c, e, result, row, entry)


cdef int admit_caller(core *c, exchange *e, int found, const consumer_row *row,
                      const credential_entry *entry) noexcept nogil:
    if found != 0:
        if row is not NULL:
            e.consumer = row[0]          # for the log: whose credential it was
        return found
    e.consumer = row[0]
    if e.verdict is not NULL and names_plan(e) and not take_plan(e):
        return NOT_SUBSCRIBED            # the token names a plan that the configuration does not have
    e.overrides = overrides_of(row)
    e.has_consumer = 1
    if entry is not NULL:
        e.credential = entry.identity
        e.key_spending = entry.spending
    if e.policy is not NULL and e.policy.flags & ROUTE_SPLIT:
        choose_service(e)                # its plans are those that count
    found = charge_access(c, e)
    return found if found != 0 else includes_service(e)


cdef inline int names_plan(const exchange *e) noexcept nogil:
    return e.verdict.plan_len != 0 and (not e.verdict.default_plan or e.consumer.plan == NONE32)


cdef int take_plan(exchange *e) noexcept nogil:
    """The plan that the token names, in place of the consumer's own; 0: there is none of that name."""
    cdef const plan_rec *p = <const plan_rec *>snap_table(e.snap, e.snap.plans)
    cdef const verdict *v = e.verdict
    cdef uint32_t i
    for i in range(e.snap.plans.count):
        if p[i].name.len == v.plan_len and memcmp(snap_str(e.snap, p[i].name), plan_in(v), v.plan_len) == 0:
            e.consumer.plan = i
            e.consumer.plan_len = <uint8_t>(v.plan_len if v.plan_len <= sizeof(e.consumer.plan_name) else 0)
            memcpy(e.consumer.plan_name, plan_in(v), e.consumer.plan_len)
            return 1
    return 0


cdef int includes_service(exchange *e) noexcept nogil:
    """0 if the caller's plan includes the route's service, else the Reason."""
    cdef const uint32_t *plans
    cdef uint32_t i
    if e.service is not NULL and e.service.plans.count != 0:
        plans = <const uint32_t *>snap_table(e.snap, e.service.plans)
        for i in range(e.service.plans.count):
            if plans[i] == e.consumer.plan:
                return 0
        return NOT_SUBSCRIBED
    return 0
