"""currency: the three letters of a currency as a number, the first letter lowest. 0: no currency."""
from libc.string cimport memcpy


cdef uint32_t currency_code(str text) except? 0:
    cdef bytes raw = text.encode("ascii")
    if not raw:
        return 0
    if len(raw) != 3:
        raise ValueError(f"{text!r} is not a currency: use three letters")
    return raw[0] | <uint32_t>raw[1] << 8 | <uint32_t>raw[2] << 16


cdef str currency_text(uint32_t code):
    """Three letters; "" for 0."""
    cdef char text[4]
    if code == 0:
        return ""
    memcpy(text, &code, 4)
    return (&text[0])[:3].decode("ascii", "replace")
