"""dry_run: would a request be served? The data plane's own functions decide, and nothing changes."""
from fastgate._core.shared.consumer_row cimport consumer_row
from fastgate._core.shared.credentials cimport credential_entry
from fastgate._core.money.money_file cimport MoneyFile
from fastgate._core.shared.segment cimport Segment
from fastgate._core.snapshot.snapshot cimport Snapshot, limit_rec
from fastgate._core.state cimport core, exchange

cdef class DryRun:
    cdef Segment segment          # private copies
    cdef MoneyFile money
    cdef Snapshot snapshot
    cdef object index             # keeps the row in use alive
    cdef bint by_address          # the client's address is known
    cdef bint by_key              # the key is known
    cdef str chosen_by            # what decides which service gets it
    cdef core *c
    cdef exchange *e
    cdef choose(self, str service)
    cdef object outcome(self, int found, const consumer_row *row, const credential_entry *entry, bint shown)
    cdef int decide(self, int found, const consumer_row *row, const credential_entry *entry, bint shown)
    cdef fresh(self)
    cdef int lift_account(self)
    cdef int lift_subscription(self)
    cdef lift_spending(self)
    cdef tuple limits(self, bint known)
    cdef object limit(self, const limit_rec *l, bint of_plan)
    cdef list spending(self)
