"""deadline_table: builds a table of deadlines from rows that people can read, too."""


cdef list table_of(list rows, deadline_table *t):
    cdef int state, needs, situation
    if len(rows) > ROWS_MOST:
        raise ValueError(f"{len(rows)} rows; {ROWS_MOST} is the most")
    for i, row in enumerate(rows, 1):
        state, needs = row[0], row[1]
        if state >= STATES or needs >= SITUATIONS:
            raise ValueError(f"row {i} is not in the table: state {state}, needs {needs}")
        t.rows[i].state = state
        t.rows[i].needs = needs
        t.rows[i].deadline = row[2]
        t.rows[i].passes = row[3]
        for situation in range(SITUATIONS):
            if needs & ~situation == 0 and t.counts[state][situation] == 0:
                t.counts[state][situation] = i
    return [tuple(row[4:]) for row in rows]
