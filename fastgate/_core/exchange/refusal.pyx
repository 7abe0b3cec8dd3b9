"""refusal: the answer when a request is refused, made from the snapshot's templates.

Each reason has up to three templates, for programs (JSON), agents (Markdown) and people (HTML);
the Accept field decides (accept.pyx).

A template is bytes with marks: byte 0x01 and a letter. An upper-case letter is a hole for a value. A
lower-case letter begins a section, which is included only if its condition holds; a dot ends it (`Hole`
and `Section` in snapshot.pxd). One memchr() finds the next mark, so text costs no more than copying it.
Fields and body are filled in on the stack first, since the head must have the body's length.

Values are escaped for their context. Balances are shown only to a caller with a valid credential:
for others, the sections that hold them are left out.

**Capabilities.** The links of a refusal carry a token. For an hour, its bearer can see why this one
request was refused, and pay for the caller's account, without a key:

    base64url( expires u32, big-endian | consumer u64 | SipHash-2-4-128(key, request id, expires, consumer) )

The consumer is 0 if the caller is not known: then the token shows the refusal, but nothing about any
account. The key is 128 secret bits of the gateway, in the snapshot. SipHash (Aumasson and Bernstein)
is a keyed hash made for short messages: 40 ns, and without the key the only way to make a valid tag
is to try about 2^127 of them.
"""
from libc.stdint cimport int64_t
from libc.string cimport memchr, memcpy, strlen

from fastgate._core.exchange.accept cimport FORM_HTML, FORM_MARKDOWN, accepted_form
from fastgate._core.exchange.maintenance cimport maintenance_message, maintenance_wait
from fastgate._core.http.head cimport F_HOST, METHOD_HEAD, field, field_of, has_field
from fastgate._core.exchange.render cimport answer_extra, called_securely, put_additions, put_date
from fastgate._core.reason cimport HTTPS_REQUIRED, MAINTENANCE
from fastgate._core.snapshot.snapshot cimport (
    HOLE_ALLOW, HOLE_BALANCE, HOLE_CAPABILITY, HOLE_CHALLENGE, HOLE_CURRENCY, HOLE_DETAIL, HOLE_DUE,
    HOLE_DUE_AT, HOLE_DUE_CURRENCY, HOLE_DUE_WORDS, HOLE_ENDED, HOLE_ENDED_WORDS, HOLE_ERROR_COUNT, HOLE_ERRORS,
    HOLE_FAULT_AT, HOLE_HELD, HOLE_INVOICE, HOLE_LIMIT, HOLE_LIMIT_WORDS, HOLE_MESSAGE, HOLE_METER, HOLE_NOW, HOLE_ORIGIN,
    HOLE_PLAN, HOLE_POLICY,
    HOLE_REMAINING, HOLE_REQUEST_ID, HOLE_REQUIRED, HOLE_RESETS_AT, HOLE_RESETS_WORDS,
    HOLE_RETRY_AFTER, HOLE_RETRY_WORDS, HOLE_ROUTE, HOLE_SCOPES, HOLE_SHORTFALL, HOLE_SPENDER, HOLE_SPENDING,
    HOLE_STATUS, HOLE_UNITS, HOLE_UNITS_FIT, HOLE_USED, ROUTE_OPENAI_ERRORS, SECTION_CAPABILITY,
    SECTION_DUE, SECTION_END, SECTION_ENDED, SECTION_FAULT_AT, SECTION_FITS, SECTION_HELD, SECTION_LIMIT,
    SECTION_MESSAGE, SECTION_MONEY, SECTION_OPENAI, SECTION_OWNER, SECTION_PLAN, SECTION_RESETS, SECTION_SPENDING,
    SECTION_UNITS, SECTION_WAIT, refusal_rec, snap_str, snap_table, snapshot_header,
    str_ref)
from fastgate._core.state cimport answer
from fastgate._core.platform.base64 cimport put_base64url
from fastgate._core.platform.buffer cimport buf_head, buf_len
from fastgate._core.platform.text cimport put, put_hex, put_lit, put_uint
from fastgate._core.money.wallet cimport bill_read
from fastgate._core.shared.layout cimport owed_bill
from fastgate._core.exchange.challenge cimport put_challenge, put_needed_scopes
from fastgate._core.exchange.number_text cimport put_amount, put_duration, put_limit_words, put_moment, put_money, put_time
from fastgate._core.http.lines cimport end_line

cdef enum:
    FIELDS_MAX = 2048         # of filled fields, before those that all answers have
    BODY_MAX = 66048          # of a filled body: the most that a configured one may have, 32 KiB and 64 holes, and one more
    HOLE_MAX = 512            # the most that one hole may write, except
    MESSAGE_MAX = 1536        # that for the message of a maintenance: 256 characters, escaped


# ---- capabilities ---------------------------------------------------------------------------

cdef extern from *:
    """
    #define FG_ROTL(x, b) (((x) << (b)) | ((x) >> (64 - (b))))
    #define FG_SIPROUND do { \\
        v0 += v1; v1 = FG_ROTL(v1, 13); v1 ^= v0; v0 = FG_ROTL(v0, 32); \\
        v2 += v3; v3 = FG_ROTL(v3, 16); v3 ^= v2; \\
        v0 += v3; v3 = FG_ROTL(v3, 21); v3 ^= v0; \\
        v2 += v1; v1 = FG_ROTL(v1, 17); v1 ^= v2; v2 = FG_ROTL(v2, 32); \\
    } while (0)
    /* SipHash-2-4 with its 128-bit result, little-endian machines. */
    static void fg_siphash128(const uint64_t *key, const uint8_t *p, size_t n, uint8_t *out) {
        uint64_t v0 = key[0] ^ 0x736f6d6570736575ull, v1 = key[1] ^ 0x646f72616e646f6dull ^ 0xee;
        uint64_t v2 = key[0] ^ 0x6c7967656e657261ull, v3 = key[1] ^ 0x7465646279746573ull;
        uint64_t last = (uint64_t)n << 56, m;
        size_t whole = n & ~(size_t)7;
        for (size_t i = 0; i < whole; i += 8) {
            memcpy(&m, p + i, 8);
            v3 ^= m;
            FG_SIPROUND; FG_SIPROUND;
            v0 ^= m;
        }
        for (size_t i = whole; i < n; i++) last |= (uint64_t)p[i] << (8 * (i - whole));
        v3 ^= last;
        FG_SIPROUND; FG_SIPROUND;
        v0 ^= last;
        v2 ^= 0xee;
        FG_SIPROUND; FG_SIPROUND; FG_SIPROUND; FG_SIPROUND;
        m = v0 ^ v1 ^ v2 ^ v3;
        memcpy(out, &m, 8);
        v1 ^= 0xdd;
        FG_SIPROUND; FG_SIPROUND; FG_SIPROUND; FG_SIPROUND;
        m = v0 ^ v1 ^ v2 ^ v3;
        memcpy(out + 8, &m, 8);
    }
    """
    void siphash128 "fg_siphash128"(const uint64_t *key, const uint8_t *p, size_t n, uint8_t *out) noexcept nogil


cdef void capability_tag(const uint64_t *key, const void *request_id, uint32_t expires, uint64_t consumer,
                         uint8_t *out) noexcept nogil:
    cdef uint8_t message[28]
    memcpy(message, request_id, 16)
    memcpy(message + 16, &expires, 4)
    memcpy(message + 20, &consumer, 8)
    siphash128(key, message, 28, out)


cdef char *put_capability(char *p, exchange *e) noexcept nogil:
    cdef uint32_t expires = <uint32_t>((<int64_t>e.owner.loop.now + e.owner.unix_offset) // 1000000000 + CAPABILITY_S)
    cdef uint64_t consumer = e.consumer.identity if e.has_consumer else 0
    cdef uint8_t token[CAPABILITY_BYTES]
    cdef int i
    for i in range(4):
        token[i] = <uint8_t>(expires >> (24 - 8 * i))
    memcpy(token + 4, &consumer, 8)
    capability_tag(e.snap.capability_key, e.request_id, expires, consumer, token + 12)
    return put_base64url(p, token, CAPABILITY_BYTES)


# ---- values ---------------------------------------------------------------------------------

cdef extern from *:
    """
    static const char *const fg_method_names[] = {
        "", "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"};
    static inline char *fg_put_methods(char *p, uint64_t bits) {
        int first = 1;
        for (int i = 1; i < 10; i++) {
            if (!(bits >> i & 1)) continue;
            if (!first) { *p++ = ','; *p++ = ' '; }
            size_t n = strlen(fg_method_names[i]);
            memcpy(p, fg_method_names[i], n);
            p += n;
            first = 0;
        }
        return p;
    }
    """
    char *put_methods "fg_put_methods"(char *p, uint64_t bits) noexcept nogil


cdef char *put_allow(char *p, uint64_t methods) noexcept nogil:
    p = put_lit(p, "Allow: ")
    p = put_methods(p, methods)
    return end_line(p)


cdef char *put_escaped(char *p, const char *s, uint32_t n, int escape) noexcept nogil:
    """Write names and texts of ours. They were checked in the configuration; this is a second check. At
    most six bytes for one, and in total no more than a hole may write."""
    return put_all_escaped(p, s, min(n, <uint32_t>(HOLE_MAX // 6)), escape)


cdef char *put_all_escaped(char *p, const char *s, uint32_t n, int escape) noexcept nogil:
    cdef uint32_t i
    cdef uint8_t x
    for i in range(n):
        x = <uint8_t>s[i]
        if x < 32:
            x = 32
        if escape == ESCAPE_HTML and (x == 38 or x == 60 or x == 62 or x == 34 or x == 39):
            p = put_lit(p, "&#")
            p = put_uint(p, x)
            p = put_lit(p, ";")
            continue
        if (escape == ESCAPE_JSON and (x == 34 or x == 92)) or (
                escape == ESCAPE_MARKDOWN and (x == 92 or x == 96 or x == 42 or x == 95 or x == 91 or x == 60)):
            p[0] = 92
            p += 1
        p[0] = <char>x
        p += 1
    return p


cdef char *put_sum(char *p, int64_t micros, uint32_t currency, int escape) noexcept nogil:
    """Money: for programs without needless zeros, on pages with the currency's decimals."""
    if escape == ESCAPE_HTML or escape == ESCAPE_MARKDOWN:
        return put_amount(p, micros, currency)
    return put_money(p, micros)


cdef int64_t shortfall(int64_t required, int64_t balance) noexcept nogil:
    """What is missing: at least 0; the largest number if it would overflow."""
    if balance >= required:
        return 0
    if balance < 0 and required > <int64_t>0x7fffffffffffffff + balance:
        return 0x7fffffffffffffff
    return required - balance


cdef char *put_currency(char *p, uint32_t currency) noexcept nogil:
    cdef int i
    cdef uint8_t x
    for i in range(3):
        x = <uint8_t>(currency >> (8 * i))
        p[i] = <char>(x if 65 <= x <= 90 else 88)
    return p + 3


cdef extern from *:
    """
    static const char *const fg_spenders[] = {"", "account", "consumer", "key"};   /* by Spender */
    """
    const char *const *SPENDERS "fg_spenders"


cdef char *put_origin(char *p, exchange *e) noexcept nogil:
    """Scheme and authority as the client addressed them, so that links can be absolute; https if that is
    what is missing. Nothing, so that links are relative, if the Host has anything but letters, digits and
    ":.-[]"."""
    cdef const field *f
    cdef const char *host
    cdef uint32_t i, n
    cdef uint8_t x
    if not has_field(&e.req, F_HOST):
        return p
    f = field_of(&e.req, F_HOST)
    host = e.base + f.value
    n = f.value_len
    if n == 0 or n > 255:
        return p
    for i in range(n):
        x = <uint8_t>host[i]
        if not (48 <= x <= 58 or 65 <= x <= 90 or 97 <= x <= 122 or x == 45 or x == 46 or x == 91 or x == 93):
            return p
    p = put_lit(p, "http")
    if called_securely(e) or e.reason == HTTPS_REQUIRED:
        p = put_lit(p, "s")
    p = put_lit(p, "://")
    return put(p, host, n)


# ---- filling --------------------------------------------------------------------------------

cdef int64_t resets_at(exchange *e) noexcept nogil:
    """Unix seconds; 0: not known."""
    if e.money_resets != 0:
        return e.money_resets
    return <int64_t>e.seen.resets_at if e.tightest is not NULL else 0


cdef uint64_t retry_after(exchange *e) noexcept nogil:
    """Seconds. The state of a limit that let the request pass is irrelevant to this refusal."""
    if e.reason == MAINTENANCE:
        return maintenance_wait(e)
    return e.seen.retry_s if e.tightest is not NULL and e.seen.retry_s > 0 else 1


cdef int owed(exchange *e, owed_bill *out) noexcept nogil:
    """The bill of the caller's account that is due first. 0: none, or the caller is not known."""
    return e.has_consumer and e.account is not NULL and bill_read(e.account, out)


cdef int holds(exchange *e, int section) noexcept nogil:
    """Whether a section is included in this answer."""
    cdef owed_bill due
    if section == SECTION_PLAN:
        return e.has_consumer and e.consumer.plan_len != 0
    if section == SECTION_DUE:
        return owed(e, &due)
    if section == SECTION_ENDED:
        return e.has_consumer and e.access_ended != 0
    if section == SECTION_HELD:
        return e.has_consumer and e.money_held > 0
    if section == SECTION_UNITS:
        return e.has_consumer and e.units_asked != 0
    if section == SECTION_FITS:
        return e.has_consumer and e.units_asked != 0 and e.units_fit != 0
    if section == SECTION_MESSAGE:
        return maintenance_message(e).len != 0
    if section == SECTION_WAIT:
        return e.money_required <= e.money_limit
    if section == SECTION_OWNER:
        return e.has_consumer and e.money_currency != 0
    if section == SECTION_MONEY:
        return e.money_currency != 0
    if section == SECTION_SPENDING:
        return e.has_consumer and e.money_currency != 0 and e.money_resets != 0
    if section == SECTION_LIMIT:
        return e.tightest is not NULL
    if section == SECTION_RESETS:
        return resets_at(e) != 0
    if section == SECTION_CAPABILITY:
        return (e.snap.capability_key[0] | e.snap.capability_key[1]) != 0
    if section == SECTION_FAULT_AT:
        return e.fault_when != 0
    if section == SECTION_OPENAI:
        return e.policy is not NULL and e.policy.flags & ROUTE_OPENAI_ERRORS
    return 1


cdef const char *end_of_section(const char *t, const char *stop) noexcept nogil:
    """The position after the mark that ends the section at t; sections may be nested."""
    cdef int depth = 1
    while t < stop:
        t = <const char *>memchr(t, 1, stop - t)
        if t is NULL or t + 1 >= stop:
            return stop
        if t[1] == SECTION_END:
            depth -= 1
        elif t[1] >= 97:
            depth += 1
        t += 2
        if depth == 0:
            return t
    return stop


cdef char *put_owed(char *p, exchange *e, int letter, int escape) noexcept nogil:
    cdef owed_bill due
    if not owed(e, &due):
        return p                         # paid since the section began
    if letter == HOLE_DUE:
        return put_sum(p, due.micros, due.currency, escape)
    if letter == HOLE_DUE_CURRENCY:
        return put_currency(p, due.currency)
    if letter == HOLE_DUE_AT:
        return put_time(p, due.due)
    if letter == HOLE_DUE_WORDS:
        return put_moment(p, due.due)
    return put_escaped(p, due.number, due.number_len, escape)


cdef char *put_errors(char *p, exchange *e, int escape) noexcept nogil:
    if e.errors is NULL:                 # there was no memory for them
        return put_lit(p, "[]") if escape == ESCAPE_JSON else p
    return put(p, buf_head(e.errors) + e.first_error, buf_len(e.errors) - e.first_error)


cdef char *put_hole(char *p, exchange *e, int letter, int escape) noexcept nogil:
    """A hole's value, at most HOLE_MAX bytes; HOLE_MESSAGE: MESSAGE_MAX; HOLE_ERRORS may be longer."""
    cdef const snapshot_header *s = e.snap
    cdef const str_ref *texts
    cdef str_ref message
    if letter == HOLE_REQUEST_ID:
        return put_hex(p, e.request_id, 16)
    if letter == HOLE_STATUS:
        return put_uint(p, e.status)
    if letter == HOLE_MESSAGE:
        message = maintenance_message(e)
        return put_all_escaped(p, snap_str(s, message), message.len, escape)
    if letter == HOLE_LIMIT:
        return put_uint(p, e.tightest.amount if e.tightest is not NULL else 0)
    if letter == HOLE_USED:
        return put_uint(p, e.seen.used)
    if letter == HOLE_REMAINING:
        return put_uint(p, e.seen.remaining)
    if letter == HOLE_RETRY_AFTER:
        return put_uint(p, retry_after(e))
    if letter == HOLE_RESETS_AT:
        return put_time(p, resets_at(e))
    if letter == HOLE_POLICY:
        return put_escaped(p, snap_str(s, e.tightest.name), e.tightest.name.len, escape) \
            if e.tightest is not NULL else p
    if letter == HOLE_LIMIT_WORDS:
        return put_limit_words(p, e.tightest) if e.tightest is not NULL else p
    if letter == HOLE_ROUTE:
        return put_escaped(p, snap_str(s, e.route.name), e.route.name.len, escape) if e.route is not NULL else p
    if letter == HOLE_DETAIL:
        if e.errors is not NULL:
            return put(p, buf_head(e.errors), e.first_error)
        if e.fault >= s.faults.count:
            return p
        texts = <const str_ref *>snap_table(s, s.faults)
        # Our own sentences: apostrophes are the only characters in them that any form would escape.
        return put(p, snap_str(s, texts[e.fault]), texts[e.fault].len) if texts[e.fault].len < HOLE_MAX else p
    if letter == HOLE_ERRORS:
        return put_errors(p, e, escape)
    if letter == HOLE_ERROR_COUNT:
        return put_uint(p, e.n_errors)
    if letter == HOLE_ALLOW:
        return put_methods(p, e.match.allowed)
    if letter == HOLE_CHALLENGE:
        return put_challenge(p, e, HOLE_MAX)
    if letter == HOLE_FAULT_AT:
        return put_time(p, e.fault_when)
    if letter == HOLE_NOW:
        return put_time(p, (<int64_t>e.owner.loop.now + e.owner.unix_offset) // 1000000000)
    if letter == HOLE_SCOPES:
        return put_needed_scopes(p, e, HOLE_MAX)
    if letter == HOLE_BALANCE:
        return put_sum(p, e.money_balance, e.money_currency, escape)
    if letter == HOLE_REQUIRED:
        return put_sum(p, e.money_required, e.money_currency, escape)
    if letter == HOLE_SHORTFALL:
        return put_sum(p, shortfall(e.money_required, e.money_balance), e.money_currency, escape)
    if letter == HOLE_SPENDING:
        return put_sum(p, e.money_limit, e.money_currency, escape)
    if letter == HOLE_HELD:
        return put_sum(p, e.money_held, e.money_currency, escape)
    if letter == HOLE_SPENDER:
        return put(p, SPENDERS[e.money_limit_of & 3], strlen(SPENDERS[e.money_limit_of & 3]))
    if letter == HOLE_PLAN:
        return put_escaped(p, e.consumer.plan_name, e.consumer.plan_len, escape)
    if letter == HOLE_RESETS_WORDS:
        return put_moment(p, resets_at(e))
    if letter == HOLE_ENDED:
        return put_time(p, e.access_ended)
    if letter == HOLE_ENDED_WORDS:
        return put_moment(p, e.access_ended)
    if letter == HOLE_RETRY_WORDS:
        return put_duration(p, retry_after(e))
    if letter == HOLE_METER:
        return put_escaped(p, e.meter, e.meter_len, escape)
    if letter == HOLE_UNITS:
        return put_uint(p, e.units_asked)
    if letter == HOLE_UNITS_FIT:
        return put_uint(p, e.units_fit)
    if letter == HOLE_DUE or letter == HOLE_DUE_CURRENCY or letter == HOLE_DUE_AT or letter == HOLE_DUE_WORDS \
            or letter == HOLE_INVOICE:
        return put_owed(p, e, letter, escape)
    if letter == HOLE_CURRENCY:
        return put_currency(p, e.money_currency)
    if letter == HOLE_CAPABILITY:
        return put_capability(p, e)
    if letter == HOLE_ORIGIN:
        return put_origin(p, e)
    return p


cdef char *fill(char *p, char *end, exchange *e, str_ref template, int escape) noexcept nogil:
    """Write a template with its holes filled; NULL when it would not fit."""
    cdef const char *t = snap_str(e.snap, template)
    cdef const char *stop = t + template.len
    cdef const char *mark
    cdef int letter
    while t < stop:
        mark = <const char *>memchr(t, 1, stop - t)
        if mark is NULL:
            mark = stop
        if p + (mark - t) + HOLE_MAX > end:
            return NULL
        p = put(p, t, mark - t)
        if mark + 1 >= stop:
            break
        letter = mark[1]
        t = mark + 2
        if letter == SECTION_END:
            continue
        if letter >= 97:                 # a section; holes are upper-case
            if not holds(e, letter):
                t = end_of_section(t, stop)
            continue
        if letter == HOLE_MESSAGE and p + MESSAGE_MAX > end:
            return NULL
        if letter == HOLE_ERRORS and e.errors is not NULL and p + buf_len(e.errors) + HOLE_MAX > end:
            return NULL
        p = put_hole(p, e, letter, escape)
    return p


cdef char *refusal_fields(char *p, exchange *e, const answer *a) noexcept nogil:
    p = put(p, a.lines, a.lines_len)
    if a.status == 402 and e.policy is not NULL:
        p = put(p, snap_str(e.snap, e.policy.payment_required), e.policy.payment_required.len)
    p = put_date(p, e.owner)
    return put_additions(p, e)


cdef int refusal_escape(exchange *e, int reason) noexcept nogil:
    cdef const refusal_rec *r = <const refusal_rec *>snap_table(e.snap, e.snap.refusals) + reason
    cdef int form = accepted_form(e)
    if form == FORM_HTML and r.html_fields.len:
        return ESCAPE_HTML
    if form == FORM_MARKDOWN and r.markdown_fields.len:
        return ESCAPE_MARKDOWN
    return ESCAPE_JSON


cdef int start_refusal(exchange *e, int reason) noexcept nogil:
    cdef const refusal_rec *r = <const refusal_rec *>snap_table(e.snap, e.snap.refusals) + reason
    cdef char body[BODY_MAX]
    cdef char lines[FIELDS_MAX]
    cdef str_ref fields_template = r.fields, body_template = r.body
    cdef char *body_end
    cdef char *lines_end
    cdef int escape = refusal_escape(e, reason)
    cdef answer a
    if escape == ESCAPE_HTML:
        fields_template, body_template = r.html_fields, r.html_body
    elif escape == ESCAPE_MARKDOWN:
        fields_template, body_template = r.markdown_fields, r.markdown_body
    body_end = fill(body, body + BODY_MAX, e, body_template, escape)
    lines_end = fill(lines, lines + FIELDS_MAX, e, fields_template, ESCAPE_NONE)
    a.status = e.status
    a.upgrade = 0
    a.has_length = 0
    a.k = NULL
    if body_end is NULL or lines_end is NULL:
        a.status = 500
        body_end = body
        lines_end = lines
    a.length = body_end - body
    a.lines = lines
    a.lines_len = <uint32_t>(lines_end - lines)
    a.body = body
    a.body_len = <uint32_t>a.length if e.req.method_id != METHOD_HEAD else 0
    a.room = a.lines_len + answer_extra(e)
    if a.status == 402 and e.policy is not NULL:
        a.room += e.policy.payment_required.len
    a.fields = refusal_fields
    return e.down.codec.start(e, &a)


# ---- the border ----------------------------------------------------------------------------

CAPABILITY_SECONDS = CAPABILITY_S


def tag(key: bytes, request_id: bytes, expires: int, consumer: int) -> bytes:
    """The 16 bytes that authenticate a capability. `key` and `request_id` have 16 bytes, `expires` is
    Unix seconds below 2^32, `consumer` the 64-bit hash of a consumer's id, or 0.

    Raises ValueError for any other length, OverflowError for a number that does not fit.
    """
    cdef uint64_t words[2]
    cdef uint8_t out[16]
    if len(key) != 16 or len(request_id) != 16:
        raise ValueError("a key and a request id have 16 bytes each")
    memcpy(words, <const char *>key, 16)
    capability_tag(words, <const char *>request_id, expires, consumer, out)
    return (<char *>out)[:16]
