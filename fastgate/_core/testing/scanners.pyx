"""scanners: each scanner of chars.pxd by itself, and in the parser."""
from libc.stdint cimport uint8_t

from fastgate._core.http.fields cimport fields_use_scanner
from fastgate._core.http.target cimport target_use_scanner
from fastgate._core.platform.chars cimport fg_cset, fg_cset_make, fg_scanner, fg_scanner_named

from fastgate._core.http1.parser import SCANNERS


def scanners() -> tuple[str, ...]:
    """Names of the scanners that this processor can run, fastest first."""
    return tuple(name for name in SCANNERS if fg_scanner_named(name.encode()) != NULL)


cdef object in_use = scanners()[0]


def scanner() -> str:
    """Name of the scanner in use."""
    return in_use


def use_scanner(name: str) -> None:
    """Use one scanner for all scanning in this process. Raises ValueError if it cannot run here."""
    global in_use
    cdef fg_scanner chosen = fg_scanner_named(name.encode())
    if chosen == NULL:
        raise ValueError(f"no scanner {name!r} here; there are {', '.join(scanners())}")
    fields_use_scanner(chosen)
    target_use_scanner(chosen)
    in_use = name


def scan_class(data: bytes, bit: int) -> int:
    """Offset of the first octet of `data` outside of the class (a CH_* bit of chars.pxd), found by the
    scanner in use; the length if there is none."""
    cdef fg_cset s
    cdef const char *p = data
    if not fg_cset_make(&s, <uint8_t>bit):
        raise ValueError("not a class")
    return fg_scanner_named((<str>in_use).encode())(p, p + len(data), &s) - p
