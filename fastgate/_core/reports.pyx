"""reports: what an engine has counted or noted, for its worker to log, ask or answer."""
from libc.stdint cimport uint32_t, uint64_t

from fastgate._core.exchange.asking cimport answered, question_hash
from fastgate._core.io.tls cimport tls_rested
from fastgate._core.platform.sys cimport monotonic_ns
from fastgate._core.state cimport (
    MAX_POOLS, core, downstream, header_faults, snapref, tls_failures, upstream)
from fastgate._core.tokens.questions cimport ASK_KEYS, ASK_SUBJECT, QuestionKind

QUESTION_KINDS = {"keys": ASK_KEYS, "subject": ASK_SUBJECT}
_KIND_NAMES = {number: name for name, number in QUESTION_KINDS.items()}


cdef class Reports(Host):
    """Only created as an `Engine`."""

    def take_bad_headers(self) -> tuple[int, int, str, str]:
        """PROXY headers that were refused since the last call: how many; and of the last one, its ProxyFault, its peer
        ("": a Unix socket's), and the key of the listener."""
        cdef header_faults *b = &self.c.bad_headers
        cdef uint64_t count = b.count
        b.count = 0
        return count, b.fault, b.text[:b.text_len].decode(), self.keys.get(b.listener, b"").decode()

    def take_failed_tls(self) -> tuple[int, str, str, str]:
        """TLS handshakes with upstreams that failed since the last call: how many; and of the last one, the names of the
        upstream and of its target, and why."""
        cdef tls_failures *f = &self.c.failed_tls
        cdef uint64_t count = f.count
        f.count = 0
        return count, f.upstream.decode("utf-8", "replace"), f.target.decode("utf-8", "replace"), f.why.decode()

    def count_retired(self) -> int:
        cdef snapref *r = self.c.retired
        cdef int n = 0
        while r is not NULL:
            n += 1
            r = r.next
        return n

    def count_rested(self) -> int:
        """TLS connections that have no buffers for now."""
        cdef downstream *d = self.c.downs
        cdef upstream *u
        cdef uint32_t i
        cdef int n = 0
        while d is not NULL:
            n += tls_rested(&d.io)
            d = d.next
        for i in range(MAX_POOLS):
            u = self.c.pools[i].idle
            while u is not NULL:
                n += tls_rested(&u.io)
                u = u.next
        return n

    # ---- questions to control -----------------------------------------------------------

    def take_questions(self) -> list[tuple[str, int, str]]:
        """What exchanges wait for since the last call: kind ("keys": the issuer's key with this id; "subject": the
        consumer of this subject of the issuer), issuer, text."""
        cdef core *c = self.c
        cdef uint32_t i
        found = [
            (_KIND_NAMES[c.questions[i].kind], c.questions[i].issuer,
             c.questions[i].text[:c.questions[i].len].decode("utf-8", "replace"))
            for i in range(c.n_questions)
        ]
        c.n_questions = 0
        return found

    def answered(self, str kind not None, uint64_t issuer, str text not None) -> None:
        """Control has answered: what there is, is in the keyring or the credential index by now. Exchanges that wait for
        it are decided again."""
        cdef bytes raw = text.encode()
        cdef QuestionKind number = <QuestionKind><int>QUESTION_KINDS[kind]
        self.c.loop.now = monotonic_ns()
        answered(self.c, question_hash(number, issuer, raw, <uint32_t>len(raw)), NULL)
        self.follow_up()
