"""json_shape: how large and how deep parsed JSON is, and whether the parser dropped a key.

A parser keeps one of two equal keys of an object, and which one differs between parsers. What is not in the
result cannot be seen in it; but each key has one colon outside of strings, so the colons of the text are counted
and compared with the keys of the result.
"""
from cpython.dict cimport PyDict_Next, PyDict_Size
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.ref cimport PyObject
from libc.stdint cimport uint64_t

cdef struct counts:
    uint64_t values
    uint64_t keys
    uint64_t deepest


cdef void look(object data, uint64_t depth, counts *c) noexcept:
    """Count a value and all in it. The parser bounds how deep it is: orjson, 1024 levels."""
    cdef PyObject *key
    cdef PyObject *value
    cdef Py_ssize_t at = 0, i
    c.values += 1
    if type(data) is dict:
        depth += 1
        c.keys += <uint64_t>PyDict_Size(data)
        while PyDict_Next(data, &at, &key, &value):
            look(<object>value, depth, c)
    elif type(data) is list:
        depth += 1
        for i in range(PyList_GET_SIZE(data)):
            look(<object>PyList_GET_ITEM(data, i), depth, c)
    if depth > c.deepest:
        c.deepest = depth


cdef uint64_t colons(const unsigned char *p, Py_ssize_t n) noexcept nogil:
    """Colons outside of strings, in valid JSON."""
    cdef uint64_t found = 0
    cdef Py_ssize_t i = 0
    while i < n:
        if p[i] == c'"':
            i += 1
            while i < n and p[i] != c'"':
                i += 2 if p[i] == c"\\" else 1
        elif p[i] == c":":
            found += 1
        i += 1
    return found


def shape_of(data: object, text: bytes) -> tuple[int, int, bool]:
    """Of `data`, parsed from `text` by orjson: how many values it has, in how many levels of lists and objects, and
    whether an object of the text had a key twice."""
    cdef counts c
    cdef const unsigned char *p = text
    c.values = c.keys = c.deepest = 0
    look(data, 0, &c)
    return c.values, c.deepest, colons(p, len(text)) != c.keys
