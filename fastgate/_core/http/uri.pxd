"""uri: authorities and canonical paths (see uri.pyx)."""
from libc.stdint cimport int32_t, uint32_t

cdef enum:
    AUTHORITY_OK = 0
    AUTHORITY_EMPTY = -1
    AUTHORITY_USERINFO = -2
    AUTHORITY_HOST = -3       # an octet or a form that no host has
    AUTHORITY_PORT = -4

cdef struct authority:
    uint32_t host_len         # host: from the start; without a final dot; "[::1]" with its brackets
    int32_t port              # -1: none given

cdef int parse_authority(const char *p, uint32_t length, authority *out) noexcept nogil
    # AUTHORITY_*; *out is set for AUTHORITY_OK only. p[length] must be readable, and must not be a
    # name character (a letter, digit, "-", ".", "_" or "~"): the octet after a value never is

cdef int normalize_path(const char *path, uint32_t length, char *out, uint32_t cap,
                        int allow_encoded_slash, int merge_slashes) noexcept nogil
    # The canonical path. > 0: its length (at most `length`, except that a raw backslash, if
    # allowed, grows to "%5C"); < 0: minus a Reason: -BAD_TARGET, or -TARGET_TOO_LONG if it
    # does not fit `cap`. `out` must not overlap `path`.
