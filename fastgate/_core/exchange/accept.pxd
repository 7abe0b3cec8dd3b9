"""accept: which form of a refusal the client reads best."""
from fastgate._core.state cimport exchange

cdef enum Form:
    FORM_JSON = 0             # application/problem+json: programs
    FORM_MARKDOWN = 1         # agents
    FORM_HTML = 2             # people

cdef int accepted_form(exchange *e) noexcept nogil
