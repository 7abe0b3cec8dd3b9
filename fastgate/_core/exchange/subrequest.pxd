"""subrequest: requests of the gateway's own, for an exchange or for nobody (see subrequest.pyx)."""
from libc.stdint cimport uint32_t

from fastgate._core.snapshot.snapshot cimport upstream_rec
from fastgate._core.state cimport call, core, exchange, subrequest

cdef subrequest *sub_new(core *c, exchange *e, const upstream_rec *group, uint32_t timeout_ms) noexcept nogil
    # For an exchange, with its snapshot. NULL: no memory. Fill in `made`, `done` and what it needs; then start it.
cdef int sub_start(subrequest *s) noexcept nogil
    # 0: it is on its way, and `done` is called; else the Reason why not: it is gone.
cdef void sub_detach(subrequest *s) noexcept nogil                # it goes on for nobody
cdef void sub_drop(subrequest *s) noexcept nogil                  # it is not wanted any more

cdef void subs_reuse(core *c) noexcept nogil                      # a round is over
cdef void subs_close(core *c) noexcept nogil                      # drop all
cdef void subs_free(core *c) noexcept nogil                       # and free their memory

# What the engine reports about its call.
cdef void sub_got_head(call *k) noexcept nogil
cdef void sub_got_body(call *k) noexcept nogil
cdef void sub_failed(call *k, int reason) noexcept nogil
