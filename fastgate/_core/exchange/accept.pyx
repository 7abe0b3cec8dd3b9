"""accept: which form of a refusal the client reads best, by its Accept fields (RFC 9110, 12.5.1).

    each form has the q of the most specific range that names it
    the highest q wins; then the most specific range; then JSON, Markdown, HTML in this order
    if nothing is acceptable, or there is no Accept: JSON, since a refusal is sent in any case

    Accept                                             answered with
    (none), */*, application/json                      JSON
    text/html,application/xhtml+xml,*/*;q=0.8          HTML      (browsers)
    text/markdown, text/html;q=0.9, */*;q=0.1          Markdown  (agents)
    text/html;q=0.5, application/json                  JSON

A range with parameters counts as one without. An invalid q-value counts as 1. Several fields count
as one. This runs only when a request is refused.
"""
from libc.stdint cimport uint32_t

from fastgate._core.http.head cimport F_ACCEPT, field, has_field

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    /* What one Accept field says about the three forms: q in thousandths, and how specific the range was
       that gave it: 1 any, 2 any text (or application), 3 the type itself; 0: no range matched. */
    typedef struct { int q[3]; int rank[3]; } fg_wishes;

    static inline char fg_lowered(char x) { return x >= 'A' && x <= 'Z' ? (char)(x | 0x20) : x; }

    static int fg_is(const char *p, size_t n, const char *lowered) {
        if (strlen(lowered) != n) return 0;
        for (size_t i = 0; i < n; i++) if (fg_lowered(p[i]) != lowered[i]) return 0;
        return 1;
    }

    static void fg_wish(fg_wishes *w, int form, int rank, int q) {
        if (rank > w->rank[form] || (rank == w->rank[form] && q > w->q[form])) {
            w->rank[form] = rank;
            w->q[form] = q;
        }
    }

    /* The q among a range's parameters, in thousandths; an invalid q-value counts as 1. */
    static int fg_quality(const char *p, const char *end) {
        while (p < end) {
            while (p < end && (*p == ';' || *p == ' ' || *p == '\\t')) p++;
            if (end - p >= 3 && fg_lowered(p[0]) == 'q' && p[1] == '=') {
                int q = p[2] == '1' ? 1000 : 0, worth = 100;
                if (p[2] != '0' && p[2] != '1' && p[2] != '.') return 1000;
                p += p[2] == '.' ? 2 : 3;
                if (p < end && *p == '.')
                    for (p++; p < end && *p >= '0' && *p <= '9' && worth; p++, worth /= 10)
                        q += (*p - '0') * worth;
                return q > 1000 ? 1000 : q;
            }
            while (p < end && *p != ';') {
                if (*p == '"')
                    for (p++; p < end && *p != '"'; p++) if (*p == '\\\\' && p + 1 < end) p++;
                if (p < end) p++;
            }
        }
        return 1000;
    }

    static void fg_accept(fg_wishes *w, const char *p, size_t n) {
        const char *stop = p + n;
        while (p < stop) {
            const char *end = p, *type_end;
            while (end < stop && *end != ',') {
                if (*end == '"')
                    for (end++; end < stop && *end != '"'; end++) if (*end == '\\\\' && end + 1 < stop) end++;
                if (end < stop) end++;
            }
            while (p < end && (*p == ' ' || *p == '\\t')) p++;
            type_end = p;
            while (type_end < end && *type_end != ';') type_end++;
            size_t len = (size_t)(type_end - p);
            while (len && (p[len - 1] == ' ' || p[len - 1] == '\\t')) len--;
            if (len) {
                int q = fg_quality(type_end, end);
                if (fg_is(p, len, "*/*")) {
                    for (int form = 0; form < 3; form++) fg_wish(w, form, 1, q);
                } else if (fg_is(p, len, "text/*")) {
                    fg_wish(w, 1, 2, q);
                    fg_wish(w, 2, 2, q);
                } else if (fg_is(p, len, "application/*")) {
                    fg_wish(w, 0, 2, q);
                } else if (fg_is(p, len, "application/json") || fg_is(p, len, "application/problem+json")) {
                    fg_wish(w, 0, 3, q);
                } else if (fg_is(p, len, "text/markdown") || fg_is(p, len, "text/x-markdown")) {
                    fg_wish(w, 1, 3, q);
                } else if (fg_is(p, len, "text/html") || fg_is(p, len, "application/xhtml+xml")) {
                    fg_wish(w, 2, 3, q);
                }
            }
            p = end + 1;
        }
    }

    static int fg_chosen(const fg_wishes *w) {
        int best = 0;
        for (int form = 1; form < 3; form++)
            if (w->q[form] > w->q[best] || (w->q[form] == w->q[best] && w->rank[form] > w->rank[best]))
                best = form;
        return w->q[best] > 0 ? best : 0;
    }
    """
    ctypedef struct fg_wishes:
        int q[3]
        int rank[3]
    void fg_accept(fg_wishes *w, const char *p, size_t n) noexcept nogil
    int fg_chosen(const fg_wishes *w) noexcept nogil


cdef int accepted_form(exchange *e) noexcept nogil:
    """The Form that the request's Accept fields prefer."""
    cdef fg_wishes w
    cdef const field *f
    cdef uint32_t i
    if not has_field(&e.req, F_ACCEPT):
        return FORM_JSON
    for i in range(3):
        w.q[i] = 0
        w.rank[i] = 0
    for i in range(e.req.nfields):
        f = &e.req.fields[i]
        if f.id == F_ACCEPT:
            fg_accept(&w, e.base + f.value, f.value_len)
    return fg_chosen(&w)


# ---- the border ----------------------------------------------------------------------------

_FORMS = ("json", "markdown", "html")


def form_for(accept: bytes) -> str:
    """"json", "markdown" or "html": the form of a refusal for this Accept field."""
    cdef fg_wishes w
    cdef int i
    for i in range(3):
        w.q[i] = 0
        w.rank[i] = 0
    fg_accept(&w, <const char *>accept, len(accept))
    return _FORMS[fg_chosen(&w)]
