"""json_reader: strict JSON (RFC 8259), read once into a flat list of values (see json_reader.pyx)."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

cdef enum:
    JSON_VALUES = 512         # values in a text
    JSON_DEPTH = 8            # objects and arrays in one another
    JSON_MOST = 65535         # octets of a text

cdef enum JsonKind:
    JSON_OBJECT = 1
    JSON_ARRAY = 2
    JSON_STRING = 3
    JSON_NUMBER = 4
    JSON_TRUE = 5
    JSON_FALSE = 6
    JSON_NULL = 7

cdef struct json_value:       # spans count from the start of the text; of strings, without the quotes
    uint16_t start
    uint16_t len
    uint16_t name             # of a member: its name
    uint16_t name_len
    uint16_t next             # the next member or element of the same parent; 0: none
    uint16_t first            # of an object or array: its first member or element; 0: none
    uint16_t count            # of an object or array
    uint8_t kind              # JsonKind
    uint8_t escaped           # 1: the string has escapes; 2: the name has

cdef struct json_text:
    const char *text
    uint32_t n                # values; the first one is the whole text
    json_value values[JSON_VALUES]

cdef int json_read(json_text *j, const char *text, size_t length) noexcept nogil
    # 0; -1: not JSON, or beyond the bounds. `text` is kept, not copied.
cdef const json_value *json_member(const json_text *j, const json_value *of, const char *name, uint32_t length) noexcept nogil
    # NULL: there is none, or `of` is no object.
cdef int json_string(const json_text *j, const json_value *v, char *out, uint32_t room) noexcept nogil
    # The octets of a string, decoded; -1: it is no string, or does not fit.
cdef int json_equals(const json_text *j, const json_value *v, const char *text, uint32_t length) noexcept nogil
    # Whether it is a string with this text.
cdef int json_seconds(const json_text *j, const json_value *v, int64_t *out) noexcept nogil
    # A NumericDate (RFC 7519, 2), rounded down. 0; -1: it is no number from 0 to 2^53.
