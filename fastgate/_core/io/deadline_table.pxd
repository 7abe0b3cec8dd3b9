"""deadline_table: the deadlines of a connection as a table: what it waits for, and until when.

A row applies to a connection in its state if everything that it `needs` is true. The first row of a
state that applies is used; a state without one waits forever. For each state and situation, the row
is looked up once, when the table is built.

The tables: http1/deadlines.pyx, upstream/deadlines.pyx.
"""
from libc.stdint cimport uint8_t

cdef enum:
    ROWS_MOST = 16
    STATES = 8
    SITUATIONS = 256

cdef struct deadline_row:
    uint8_t state             # of the connection, or its call
    uint8_t needs             # bits that must be set in the situation; 0: any situation
    uint8_t deadline          # which one is set; 0: none
    uint8_t passes            # what happens when it passes

cdef struct deadline_table:
    deadline_row rows[ROWS_MOST + 1]      # the first is the row for no deadline
    uint8_t counts[STATES][SITUATIONS]    # index of the row in use

cdef inline const deadline_row *row_for(const deadline_table *t, int state, int situation) noexcept nogil:
    return &t.rows[t.counts[state][situation]]

cdef list table_of(list rows, deadline_table *t)
    # Fill the table from rows (state, needs, deadline, passes, *texts). Returns the texts of each row:
    # state, while, deadline, what it starts with, what restarts it, what happens when it passes.
