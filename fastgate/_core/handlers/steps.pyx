"""steps: how long each step of a Python handler keeps its worker from polling.

A handler runs on the worker's own thread. From the moment it resumes to its next `await`, the worker
serves no one: that is a step, whether it computes or blocks. `await steps_of(...)` drives a handler's
coroutine as `await` would, and counts each step in the histogram `upcall_lag`.
"""
from libc.stdint cimport uint64_t

from fastgate._core.shared.counters cimport observe
from fastgate._core.platform.sys cimport monotonic_ns


cdef class Steps:
    """A handler's coroutine with its steps timed. It implements only what `await` needs of an iterator."""

    def __await__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        cdef uint64_t began = monotonic_ns()
        try:
            return self.coroutine.send(value)
        finally:
            observe(&self.engine.c.counters.upcall_lag, monotonic_ns() - began)

    def throw(self, *what):
        cdef uint64_t began = monotonic_ns()
        try:
            return self.coroutine.throw(*what)
        finally:
            observe(&self.engine.c.counters.upcall_lag, monotonic_ns() - began)

    def close(self):
        self.coroutine.close()


cdef Steps steps_of(Host engine, coroutine):
    cdef Steps steps = Steps.__new__(Steps)
    steps.coroutine = coroutine.__await__()
    steps.engine = engine
    return steps
