"""layout: the constants of the money map (layout.pxd) for Python, and the scan for free rows."""
from libc.string cimport memset


POLICIES = {"due": POLICY_DUE, "charge": POLICY_CHARGE, "release": POLICY_RELEASE}


cdef void rows_scan(area_view *t) noexcept nogil:
    cdef uint64_t top = 0
    cdef uint32_t i
    t.returned = fg_load(&t.head.returned)
    t.some = 0
    memset(t.free, 0, sizeof(t.free))
    for i in range(t.rows):
        if (fg_load(&t.holds[i].word) & 0xFF) == HOLD_FREE:
            row_give(t, t.holds + i)
        else:
            top = i + 1
    fg_store(&t.head.top, top)
