"""ring: a keyring as workers use it: tables for the core, made once for each keyring.

For each listener, every host that a certificate or a policy names gets an entry: which certificates are
presented (one for each type of key; those that name the host itself before wildcards, in the listener's
order), and which client certificates are asked for (all policies whose host matches). Entries with the
same certificates and policy share a context.

A listener without a certificate, because none has been issued yet, has a context without one: it carries
the callback that answers challenges, and every name is refused.
"""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from fastgate._core.tls.choice cimport base_context, name_hash
from fastgate._core.tls.contexts cimport contexts_free
from fastgate._core.tls.tables cimport (
    AUTHORITIES_MOST, TICKETS, der, tls_authority, tls_certificate, tls_challenge, tls_context, tls_listener, tls_name,
    tls_policy, tls_upstream)

import hashlib

from fastgate.errors import KeyringError

_PIN = 32
_TICKET_NAME = 16
_TICKET_SECRET = 32


cdef void *table(size_t n, size_t size) except NULL:
    cdef void *p = calloc(n if n else 1, size)
    if p is NULL:
        raise MemoryError
    return p


cdef int point(der *d, view) except -1:
    """Let d point to the bytes of a view, which something else keeps alive."""
    cdef Py_buffer buffer
    PyObject_GetBuffer(view, &buffer, PyBUF_SIMPLE)
    d.at = <const uint8_t *>buffer.buf
    d.len = <uint32_t>buffer.len
    PyBuffer_Release(&buffer)
    if d.len == 0:
        raise KeyringError("the keyring has an empty certificate, list or key")
    return 0


cdef der *points(views) except NULL:
    cdef der *d = <der *>table(len(views), sizeof(der))
    try:
        for i, view in enumerate(views):
            point(&d[i], view)
    except BaseException:
        free(d)
        raise
    return d


def _hash_of(row) -> int:
    cdef bytes text = row[2]
    return name_hash(text, len(text))


def _index(int i, list entries, str what) -> int:
    if not 0 <= i < len(entries):
        raise KeyringError(f"the keyring has no {what} {i}; there are {len(entries)}")
    return i


def _covers(str pattern, str host) -> bool:
    """Whether a policy for `pattern` applies to a host, or to all hosts of a wildcard."""
    if not pattern or pattern == host:
        return True
    return pattern.startswith("*.") and host.endswith(pattern[1:])


cdef class TlsRing:
    """A keyring as the core uses it. Raises KeyringError if something in it cannot be used."""

    def __cinit__(self, keyring not None):
        self.keyring = keyring
        self.kept = []

    def __init__(self, keyring):
        self.ring.serial = keyring.serial
        self._take_certificates()
        self._take_authorities()
        self._take_tickets()
        self._take_challenges()
        self._take_listeners()
        self._take_upstreams()
        self._try()

    def __dealloc__(self):
        cdef uint32_t i
        contexts_free(&self.ring)
        for i in range(self.ring.n_certificates):
            free(self.ring.certificates[i].chain)
        for i in range(self.ring.n_authorities):
            free(self.ring.authorities[i].certificates)
            free(self.ring.authorities[i].crls)
        for i in range(self.ring.n_contexts):
            free(self.ring.contexts[i].certificates)
        for i in range(self.ring.n_listeners):
            free(self.ring.listeners[i].names)
        free(self.ring.certificates)
        free(self.ring.authorities)
        free(self.ring.policies)
        free(self.ring.contexts)
        free(self.ring.listeners)
        free(self.ring.upstreams)
        free(self.ring.challenges)

    # ---- what the keyring has ----------------------------------------------------------------

    def _take_certificates(self):
        cdef tls_certificate *c
        entries = self.keyring.certificates
        self.ring.certificates = <tls_certificate *>table(len(entries), sizeof(tls_certificate))
        for entry in entries:
            c = &self.ring.certificates[self.ring.n_certificates]
            self.ring.n_certificates += 1
            c.chain = points(entry.chain)
            c.n_chain = <uint32_t>len(entry.chain)
            point(&c.key, entry.key)

    def _take_authorities(self):
        cdef tls_authority *a
        from fastgate._core.tls.keyring import authority_id

        entries = self.keyring.authorities
        self.ring.authorities = <tls_authority *>table(len(entries), sizeof(tls_authority))
        for entry in entries:
            a = &self.ring.authorities[self.ring.n_authorities]
            self.ring.n_authorities += 1
            a.id = authority_id(entry.name)
            a.certificates = points(entry.certificates)
            a.n_certificates = <uint32_t>len(entry.certificates)
            a.crls = points(entry.crls)
            a.n_crls = <uint32_t>len(entry.crls)

    def _take_tickets(self):
        if len(self.keyring.tickets) > TICKETS:
            raise KeyringError(f"the keyring has {len(self.keyring.tickets)} ticket keys; {TICKETS} is the most")
        for i, entry in enumerate(self.keyring.tickets):
            if len(entry.name) != _TICKET_NAME or len(entry.secret) != _TICKET_SECRET:
                raise KeyringError(f"a ticket key has a name of {_TICKET_NAME} and a secret of {_TICKET_SECRET} bytes")
            memcpy(self.ring.tickets[i].name, <const char *>entry.name, 16)
            point(&self.ring.tickets[i].secret, entry.secret)
            self.ring.n_tickets += 1

    def _take_challenges(self):
        cdef tls_challenge *c
        cdef bytes host
        entries = self.keyring.challenges
        self.ring.challenges = <tls_challenge *>table(len(entries), sizeof(tls_challenge))
        for entry in entries:
            c = &self.ring.challenges[self.ring.n_challenges]
            self.ring.n_challenges += 1
            host = self._keep(entry.host)
            c.host = host
            c.len = <uint32_t>len(host)
            point(&c.certificate, entry.certificate)
            point(&c.key, entry.key)

    cdef bytes _keep(self, str text):
        raw = text.encode("ascii")
        self.kept.append(raw)
        return raw

    # ---- listeners ----------------------------------------------------------------------------

    def _take_listeners(self):
        cdef tls_listener *l
        cdef bytes key
        contexts = {}
        policies = {}
        entries = self.keyring.listeners
        self.ring.listeners = <tls_listener *>table(len(entries), sizeof(tls_listener))
        for entry in entries:
            l = &self.ring.listeners[self.ring.n_listeners]
            self.ring.n_listeners += 1
            key = self._keep(entry.key)
            l.key = key
            l.key_len = <uint32_t>len(key)

            def context(list certificates, str host):
                policy = self._policy_for(entry, host)
                number = policies.setdefault(policy, len(policies)) if policy else -1
                return contexts.setdefault((tuple(certificates), number, entry.min_version), len(contexts))

            default = self._default_for(entry)
            l.base = context(default, "")
            l.other = -1 if entry.strict_names or not default else <int>l.base
            self._take_names(l, entry, context, default)
        self._make_policies(list(policies))
        self._make_contexts(list(contexts), list(policies))

    cdef int _take_names(self, tls_listener *l, entry, context, default) except -1:
        cdef tls_name *name
        cdef bytes text
        hosts = {host for i in entry.certificates for host in self._hosts_of(i)}
        hosts |= {policy.host for policy in entry.policies if policy.host}
        rows = []
        for host in sorted(hosts):
            certificates = self._certificates_for(entry, host) or default
            refused = not certificates or (entry.strict_names and not self._certificates_for(entry, host))
            deep = -1
            if host.startswith("*."):
                deep = -1 if l.other < 0 else context(default, host)
            rows.append((-1 if refused else context(certificates, host), deep, self._keep(host)))
        rows.sort(key=_hash_of)
        l.names = <tls_name *>table(len(rows), sizeof(tls_name))
        for chosen, deep, text in rows:
            name = &l.names[l.n_names]
            l.n_names += 1
            name.text = text
            name.len = <uint32_t>len(text)
            name.hash = name_hash(text, len(text))
            name.context = chosen
            name.deep = deep
        return 0

    def _hosts_of(self, int i) -> list:
        return self.keyring.certificates[_index(i, self.keyring.certificates, "certificate")].hosts

    def _certificates_for(self, entry, str host) -> list:
        wildcard = "*." + host.partition(".")[2]
        exact = [i for i in entry.certificates if host in self._hosts_of(i)]
        return exact + [i for i in entry.certificates if wildcard in self._hosts_of(i) and i not in exact]

    def _default_for(self, entry) -> list:
        if not entry.certificates:
            return []
        hosts = self._hosts_of(entry.certificates[0])
        alike = self._certificates_for(entry, hosts[0]) if hosts else []
        return [entry.certificates[0], *(i for i in alike if i != entry.certificates[0])]

    def _policy_for(self, entry, str host) -> tuple:
        """(authorities, required) for a host; () if clients are not asked."""
        found = [policy for policy in entry.policies if _covers(policy.host, host)]
        authorities = sorted({
            _index(i, self.keyring.authorities, "authority") for policy in found for i in policy.authorities
        })
        if not authorities:
            return ()
        if len(authorities) > AUTHORITIES_MOST:
            raise KeyringError(
                f"listener {entry.key}: clients of {host or 'any host'} would be asked for certificates of "
                f"{len(authorities)} authorities; {AUTHORITIES_MOST} is the most")
        return tuple(authorities), any(policy.required for policy in found)

    cdef int _make_policies(self, list policies) except -1:
        cdef tls_policy *p
        self.ring.policies = <tls_policy *>table(len(policies), sizeof(tls_policy))
        for authorities, required in policies:
            p = &self.ring.policies[self.ring.n_policies]
            self.ring.n_policies += 1
            for i in authorities:
                p.authorities[p.n_authorities] = i
                p.n_authorities += 1
            p.required = required
        return 0

    cdef int _make_contexts(self, list contexts, list policies) except -1:
        cdef tls_context *t
        self.ring.contexts = <tls_context *>table(len(contexts), sizeof(tls_context))
        for certificates, policy, min_version in contexts:
            t = &self.ring.contexts[self.ring.n_contexts]
            self.ring.n_contexts += 1
            t.certificates = <uint32_t *>table(len(certificates), sizeof(uint32_t))
            for i in certificates:
                t.certificates[t.n_certificates] = i
                t.n_certificates += 1
            t.policy = policy
            t.min_version = min_version
            digest = self._digest(certificates, policies[policy] if policy >= 0 else (), min_version)
            memcpy(t.digest, <const char *>digest, 32)
        return 0

    def _digest(self, certificates, policy, min_version) -> bytes:
        """Of everything that a session depends on. A renewed certificate keeps its sessions."""
        digest = hashlib.sha256()
        names = [self.keyring.certificates[i].name for i in certificates]
        digest.update(repr((names, min_version, policy[1:])).encode())
        for i in policy[0] if policy else ():
            authority = self.keyring.authorities[i]
            for each in (*authority.certificates, b"lists", *authority.crls):
                digest.update(hashlib.sha256(each).digest())
        return digest.digest()

    # ---- upstreams ----------------------------------------------------------------------------

    def _take_upstreams(self):
        cdef tls_upstream *u
        cdef bytes name, pins
        entries = self.keyring.upstreams
        self.ring.upstreams = <tls_upstream *>table(len(entries), sizeof(tls_upstream))
        for entry in entries:
            u = &self.ring.upstreams[self.ring.n_upstreams]
            self.ring.n_upstreams += 1
            u.id = entry.id
            if entry.name:
                name = self._keep(entry.name)
                u.name = name
            if entry.verify and entry.authority < 0:
                raise KeyringError("an upstream that is verified has no authority")
            u.authority = _index(entry.authority, self.keyring.authorities, "authority") if entry.verify else -1
            u.certificate = -1
            if entry.certificate >= 0:
                u.certificate = _index(entry.certificate, self.keyring.certificates, "certificate")
            u.min_version = entry.min_version
            if any(len(pin) != _PIN for pin in entry.pins):
                raise KeyringError(f"a pin of an upstream is not a SHA-256 digest of {_PIN} bytes")
            pins = b"".join(entry.pins)
            self.kept.append(pins)
            u.pins = <uint8_t *><char *>pins
            u.n_pins = <uint32_t>len(entry.pins)

    # ---- use ----------------------------------------------------------------------------------

    def _try(self):
        """Make what each listener begins with: what cannot be used is reported before it is needed."""
        cdef uint32_t i
        for i in range(self.ring.n_listeners):
            if base_context(&self.ring, &self.ring.listeners[i]) is NULL:
                key = self.ring.listeners[i].key[:self.ring.listeners[i].key_len].decode()
                raise KeyringError(f"listener {key}: its certificate or key cannot be used by OpenSSL")

    @property
    def serial(self) -> int:
        """The keyring's."""
        return self.ring.serial

    @property
    def busy(self) -> bool:
        """Whether handshakes that began with it are in progress."""
        return self.ring.refs != 0
