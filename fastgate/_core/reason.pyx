"""The reasons as a Python enum (`fastgate._core.reason.Reason`); see reason.pxd.

Code without Python gets the names from `reason_text`: it reads a table of REASON_COUNT short
texts, filled once at import from the enum's own members, so that no second list can drift.
"""
from libc.string cimport memcpy

cdef enum:
    NAME_ROOM = 40

cdef char NAMES[REASON_COUNT + 1][NAME_ROOM]
cdef uint8_t LENGTHS[REASON_COUNT + 1]


cdef const char *reason_text(uint32_t reason, uint32_t *length) noexcept nogil:
    if reason > REASON_COUNT:
        reason = REASON_COUNT
    length[0] = LENGTHS[reason]
    return NAMES[reason]


def reason_name(number: int) -> str:
    """The stable name of reason `number`, as `reason_text` gives it to C.

    "" for 0, "reason_<n>" for a number without a name, "reason_other" past the table.
    """
    cdef uint32_t length
    cdef const char *text = reason_text(<uint32_t>min(number, REASON_COUNT), &length)
    return text[:length].decode("ascii")


cdef _set_name(int number, str name):
    cdef bytes text = name.encode("ascii")
    cdef const char *p = text
    if len(text) >= NAME_ROOM:
        raise ValueError(f"the name of reason {number} is longer than {NAME_ROOM - 1} bytes: {name}")
    memcpy(NAMES[number], p, len(text) + 1)
    LENGTHS[number] = <uint8_t>len(text)


cdef _fill():
    for number in range(REASON_COUNT):
        _set_name(number, f"reason_{number}")
    _set_name(REASON_COUNT, "reason_other")
    # Through globals(): inside this module, the bare name is the C type.
    for name, member in globals()["Reason"].__members__.items():
        if int(member) < REASON_COUNT:
            _set_name(int(member), name.lower())
    _set_name(REASON_NONE, "")


_fill()
