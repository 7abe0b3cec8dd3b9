"""number_text: numbers, times and limits as refusals show them to people; money and times also for programs."""
from libc.string cimport memchr, strlen

from fastgate._core.snapshot.snapshot cimport LIMIT_CONCURRENCY, LIMIT_QUOTA, PERIOD_HOUR
from fastgate._core.platform.text cimport put, put_lit, put_uint


# ---- money ----------------------------------------------------------------------------------

cdef char *put_money(char *p, int64_t micros) noexcept nogil:
    cdef uint64_t n = <uint64_t>micros
    cdef uint64_t rest
    cdef int digits = 6, i
    if micros < 0:
        p = put_lit(p, "-")
        n = 0 - n
    p = put_uint(p, n // 1000000)
    rest = n % 1000000
    if rest:
        while rest % 10 == 0:
            rest //= 10
            digits -= 1
        p = put_lit(p, ".")
        for i in range(digits):
            p[digits - 1 - i] = <char>(48 + rest % 10)
            rest //= 10
        p += digits
    return p


cdef extern from *:
    """
    /* How many decimals amounts of a currency are written with (ISO 4217), for people. */
    static int fg_coin_decimals(uint32_t currency) {
        static const char none[] = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF";
        static const char three[] = "BHD IQD JOD KWD LYD OMR TND";
        for (size_t i = 0; i + 3 < sizeof none; i += 4) if (!memcmp(none + i, &currency, 3)) return 0;
        for (size_t i = 0; i + 3 < sizeof three; i += 4) if (!memcmp(three + i, &currency, 3)) return 3;
        return 2;
    }
    """
    int coin_decimals "fg_coin_decimals"(uint32_t currency) noexcept nogil


cdef char *put_amount(char *p, int64_t micros, uint32_t currency) noexcept nogil:
    cdef char *start = p
    cdef char *point
    cdef int least = coin_decimals(currency)
    p = put_money(p, micros)
    if least == 0:
        return p
    point = <char *>memchr(start, 46, p - start)
    if point is NULL:
        point = p
        p = put_lit(p, ".")
    while p - point - 1 < least:
        p[0] = 48
        p += 1
    return p


# ---- times ----------------------------------------------------------------------------------

cdef extern from *:
    """
    static const char *const fg_month_names[] = {
        "January", "February", "March", "April", "May", "June", "July", "August", "September",
        "October", "November", "December"};
    static const char fg_day_names[] = "SunMonTueWedThuFriSat";
    static const char *const fg_period_names[] = {"second", "minute", "hour", "day", "month", "week", "year"};
    static const uint64_t fg_period_ns[] = {
        1000000000ull, 60000000000ull, 3600000000000ull, 86400000000000ull};
    /* By bit of LimitScope. */
    static const char *const fg_scope_names[] = {"address", "route", "consumer", "plan", "service", "key", "header value"};

    typedef struct { unsigned year, month, day, weekday, hour, minute, second; } fg_moment;
    /* gmtime_r without its lock, in a tenth of the time. Years begin in March, so that the leap day is the
       last day of a year, and are counted in eras of 400 (Hinnant, "chrono-Compatible Low-Level Date
       Algorithms"). From 1970, which began on a Thursday. */
    static fg_moment fg_moment_of(uint64_t unix_s) {
        uint64_t days = unix_s / 86400 + 719468, era = days / 146097;
        unsigned s = unix_s % 86400, in_era = days % 146097;
        unsigned year = (in_era - in_era / 1460 + in_era / 36524 - in_era / 146096) / 365;
        unsigned in_year = in_era - (365 * year + year / 4 - year / 100);
        unsigned march = (5 * in_year + 2) / 153, month = march < 10 ? march + 3 : march - 9;
        fg_moment m = {(unsigned)(year + 400 * era + (month <= 2)), month,
                       in_year - (153 * march + 2) / 5 + 1, (unsigned)((unix_s / 86400 + 4) % 7),
                       s / 3600, s / 60 % 60, s % 60};
        return m;
    }
    """
    ctypedef struct moment "fg_moment":
        uint32_t year, month, day, weekday, hour, minute, second
    moment moment_of "fg_moment_of"(uint64_t unix_s) noexcept nogil
    const char *const *MONTH_NAMES "fg_month_names"
    const char *DAY_NAMES "fg_day_names"
    const char *const *PERIOD_NAMES "fg_period_names"
    const uint64_t *PERIOD_NS "fg_period_ns"
    const char *const *SCOPE_NAMES "fg_scope_names"


cdef inline char *put2(char *p, uint32_t v) noexcept nogil:
    p[0] = <char>(48 + v // 10)
    p[1] = <char>(48 + v % 10)
    return p + 2


cdef inline char *put_clock(char *p, const moment *m) noexcept nogil:
    p = put2(p, m.hour)
    p = put_lit(p, ":")
    p = put2(p, m.minute)
    p = put_lit(p, ":")
    return put2(p, m.second)


cdef char *put_moment(char *p, uint64_t unix_s) noexcept nogil:
    cdef moment m = moment_of(unix_s)
    p = put_uint(p, m.day)
    p = put_lit(p, " ")
    p = put(p, MONTH_NAMES[m.month - 1], strlen(MONTH_NAMES[m.month - 1]))
    p = put_lit(p, " ")
    p = put_uint(p, m.year)
    p = put_lit(p, ", ")
    p = put_clock(p, &m)
    if m.second == 0:
        p -= 3
    return put_lit(p, " UTC")


cdef char *put_time(char *p, uint64_t unix_s) noexcept nogil:
    cdef moment m = moment_of(unix_s)
    p = put_uint(p, m.year)
    p = put_lit(p, "-")
    p = put2(p, m.month)
    p = put_lit(p, "-")
    p = put2(p, m.day)
    p = put_lit(p, "T")
    p = put_clock(p, &m)
    return put_lit(p, "Z")


cdef char *put_http_date(char *p, uint64_t unix_s) noexcept nogil:
    cdef moment m = moment_of(unix_s)
    p = put(p, DAY_NAMES + 3 * m.weekday, 3)
    p = put_lit(p, ", ")
    p = put2(p, m.day)
    p = put_lit(p, " ")
    p = put(p, MONTH_NAMES[m.month - 1], 3)
    p = put_lit(p, " ")
    p = put_uint(p, m.year)
    p = put_lit(p, " ")
    p = put_clock(p, &m)
    return put_lit(p, " GMT")


cdef char *put_count(char *p, uint64_t n, const char *unit) noexcept nogil:
    p = put_uint(p, n)
    p = put_lit(p, " ")
    p = put(p, unit, strlen(unit))
    return p if n == 1 else put_lit(p, "s")


cdef char *put_duration(char *p, uint64_t seconds) noexcept nogil:
    if seconds < 120:
        return put_count(p, seconds, b"second")
    if seconds < 7200:
        return put_count(p, (seconds + 59) // 60, b"minute")
    if seconds < 172800:
        seconds = (seconds + 59) // 60
        p = put_count(p, seconds // 60, b"hour")
        if seconds % 60:
            p = put_lit(p, " ")
            p = put_count(p, seconds % 60, b"minute")
        return p
    seconds = (seconds + 3599) // 3600
    p = put_count(p, seconds // 24, b"day")
    if seconds % 24:
        p = put_lit(p, " ")
        p = put_count(p, seconds % 24, b"hour")
    return p


# ---- limits ---------------------------------------------------------------------------------

cdef char *put_each(char *p, int period) noexcept nogil:
    p = put_lit(p, " an ") if period == PERIOD_HOUR else put_lit(p, " a ")
    return put(p, PERIOD_NAMES[period], strlen(PERIOD_NAMES[period]))


cdef char *put_limit_words(char *p, const limit_rec *l) noexcept nogil:
    cdef uint64_t units[4]
    cdef uint64_t count = 0
    cdef int i, named = 0
    if l.kind == LIMIT_CONCURRENCY:
        p = put_count(p, l.amount, b"request")
        p = put_lit(p, " at a time")
    elif l.kind == LIMIT_QUOTA:
        p = put_count(p, l.amount, b"request")
        p = put_each(p, l.period % 7)
    elif l.interval_ns:
        # An interval is a period over a count, rounded down: the first period that it divides.
        for i in range(4):
            count = (PERIOD_NS[i] + l.interval_ns // 2) // l.interval_ns
            if count and PERIOD_NS[i] // count == l.interval_ns:
                break
        p = put_count(p, count if count else 1, b"request")
        p = put_each(p, i)
    for i in range(7):
        if l.scope >> i & 1:
            p = put_lit(p, " and " if named else " for each ")
            named = 1
            p = put(p, SCOPE_NAMES[i], strlen(SCOPE_NAMES[i]))
    return p
