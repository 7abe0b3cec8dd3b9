"""token_sample: tokens read, checked and remembered outside of an engine, for tests and benchmarks."""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from fastgate._core.platform.sys cimport monotonic_ns

from fastgate._core.tokens.issuers cimport IssuerRing
from fastgate._core.tokens.json_reader cimport (
    JSON_ARRAY, JSON_FALSE, JSON_NULL, JSON_NUMBER, JSON_OBJECT, JSON_STRING, JSON_TRUE, json_read, json_string,
    json_text, json_value)
from fastgate._core.tokens.jwt cimport jwt, jwt_check_claims, jwt_find_issuer, jwt_read, jwt_verify
from fastgate._core.tokens.verdicts cimport (
    lines_of, name_in, plan_in, scopes_of, verdict, verdict_known, verdict_let_go, verdict_make, verdict_table,
    verdicts_forget)

import json
from typing import NamedTuple

from fastgate._core.tokens.faults import TokenFault


def read_json(bytes text not None):
    """What the core's reader makes of a text. Raises ValueError if it refuses it."""
    cdef json_text *j = <json_text *>calloc(1, sizeof(json_text))
    if j is NULL:
        raise MemoryError
    try:
        if json_read(j, text, len(text)) < 0:
            raise ValueError("refused")
        return value_of(j, &j.values[0], text)
    finally:
        free(j)


cdef object value_of(json_text *j, const json_value *v, bytes text):
    cdef bytearray room
    cdef uint32_t i
    if v.kind == JSON_STRING:
        return string_of(j, v)
    if v.kind == JSON_NUMBER:
        return json.loads(text[v.start:v.start + v.len])
    if v.kind == JSON_OBJECT or v.kind == JSON_ARRAY:
        members = []
        i = v.first
        while i:
            members.append((name_of(j, &j.values[i]), value_of(j, &j.values[i], text)))
            i = j.values[i].next
        if len(members) != v.count:
            raise AssertionError("a wrong count")
        return dict(members) if v.kind == JSON_OBJECT else [each for _, each in members]
    return {JSON_TRUE: True, JSON_FALSE: False, JSON_NULL: None}[v.kind]


cdef str string_of(json_text *j, const json_value *v):
    cdef bytearray room = bytearray(v.len + 4)
    cdef int n = json_string(j, v, room, <uint32_t>len(room))
    if n < 0:
        raise AssertionError("a string that was read cannot be decoded")
    return bytes(room[:n]).decode()


cdef str name_of(json_text *j, const json_value *v):
    cdef json_value name = v[0]
    name.kind = JSON_STRING
    name.start, name.len = v.name, v.name_len
    return string_of(j, &name)


class Checked(NamedTuple):
    """What a worker finds out about a token. `fault`: the name of a TokenFault; "": it is good. `when`: Unix
    seconds, of a fault that is about time. `remembered`: it was known."""

    fault: str
    when: int = 0
    until: int = 0
    subject: str = ""
    scopes: str = ""
    plan: str = ""
    lines: bytes = b""
    subject_digest: bytes = b""
    token_digest: bytes = b""
    token_id_digest: bytes = b""
    remembered: bool = False


cdef class Checker:
    """A worker's memory of tokens, with the issuers of a keyring."""

    cdef IssuerRing issuers
    cdef jwt *scratch
    cdef verdict_table *table

    def __cinit__(self, keyring):
        self.issuers = IssuerRing(keyring)
        self.scratch = <jwt *>calloc(1, sizeof(jwt))
        self.table = <verdict_table *>calloc(1, sizeof(verdict_table))
        if self.scratch is NULL or self.table is NULL:
            raise MemoryError
        self.table.seed = 0x5eed

    def __dealloc__(self):
        if self.table is not NULL:
            verdicts_forget(self.table)
        free(self.table)
        free(self.scratch)

    def use(self, keyring) -> None:
        """Another keyring replaces the first."""
        self.issuers = IssuerRing(keyring)

    cdef int fault_of(self, bytes token, const uint64_t *ids, uint32_t n, int64_t now_s) noexcept:
        cdef int fault = jwt_read(self.scratch, token, <uint32_t>len(token))
        if fault == 0:
            fault = jwt_find_issuer(self.scratch, &self.issuers.ring, ids, n)
        if fault == 0:
            fault = jwt_verify(self.scratch)
        return fault or jwt_check_claims(self.scratch, now_s)

    def check(self, bytes token not None, list ids, now_s) -> Checked:
        """Check a token that one of these issuers may have issued."""
        cdef uint64_t numbers[8]
        cdef uint32_t n = <uint32_t>len(ids)
        cdef verdict *v
        cdef int fault
        for i, number in enumerate(ids):
            numbers[<int>i] = number
        v = verdict_known(self.table, token, <uint32_t>len(token), numbers, n, &self.issuers.ring, now_s, 0)
        if v is not NULL:
            return seen(v, True)
        fault = self.fault_of(token, numbers, n, now_s)
        v = verdict_make(self.table, self.scratch, fault, now_s, self.issuers.ring.serial)
        if v is NULL:
            raise MemoryError
        try:
            return seen(v, False)
        finally:
            verdict_let_go(v)

    def signed(self, bytes token not None, list ids) -> str:
        """The fault of a signature, whatever the payload is; "": it is good."""
        cdef int fault = jwt_read(self.scratch, token, <uint32_t>len(token))
        if fault == 0:
            self.scratch.issuer = &self.issuers.ring.issuers[0]
            fault = jwt_verify(self.scratch)
        return fault_name(fault)

    def bench_first(self, bytes token not None, uint64_t issuer, now_s, uint64_t n) -> float:
        """Nanoseconds to check a token that is not known, on average of n times. Raises ValueError if it is bad."""
        cdef uint64_t began, i
        cdef verdict *v
        cdef int fault = 0
        cdef int64_t now = now_s
        began = monotonic_ns()
        for i in range(n):
            fault |= self.fault_of(token, &issuer, 1, now)
            v = verdict_make(self.table, self.scratch, fault, now, self.issuers.ring.serial)
            verdict_let_go(v)
        if fault:
            raise ValueError(fault_name(fault))
        return <double>(monotonic_ns() - began) / n

    def bench_known(self, bytes token not None, uint64_t issuer, now_s, uint64_t n) -> float:
        """Nanoseconds to find a token that is known. Raises ValueError if it is not."""
        cdef uint64_t began, i, missed = 0
        cdef int64_t now = now_s
        cdef const char *p = token
        cdef uint32_t size = <uint32_t>len(token)
        self.check(token, [issuer], now_s)
        began = monotonic_ns()
        for i in range(n):
            missed += verdict_known(self.table, p, size, &issuer, 1, &self.issuers.ring, now, 0) is NULL
        if missed:
            raise ValueError("not known")
        return <double>(monotonic_ns() - began) / n


cdef str fault_name(int fault):
    return TokenFault(fault).name.removeprefix("TOKEN_").lower() if fault else ""


cdef object seen(const verdict *v, bint remembered):
    return Checked(
        fault_name(v.fault), v.when, v.until, name_in(v)[:v.name_len].decode(), scopes_of(v)[:v.scopes_len].decode(),
        plan_in(v)[:v.plan_len].decode(), lines_of(v)[:v.lines_len], (<const char *>v.subject)[:32],
        (<const char *>v.digest)[:32], (<const char *>v.token_id)[:32] if v.has_token_id else b"", remembered)
