"""engine: one worker's data plane: its listeners, its snapshot, and the poll loop.

    one round = epoll_wait → dispatch → ready list → deadlines → free what was closed

In a worker the engine waits for events in place of uvloop (`run_in`; see io/libuv.pyx). It runs round after
round without the GIL, and without Python, until uvloop has something to do: a signal, a timer, a message
from the control process, a handler's task. While uvloop has work, the engine's turns are bounded (until
nothing is ready, or 64 rounds, or 1 ms), so that both make progress. Outside a worker, the engine's epoll
descriptor can be watched, and `poll()` called when it is readable.

Python runs for three things only, all after the rounds: to start a handler for an exchange (`upcall`), to
resume a handler when something it waits for has happened, and to release snapshots that no exchange uses
any longer.
"""
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from fastgate._core.platform.atomics cimport fg_store
from fastgate._core.platform.buffer cimport buf_trim, buffers_free, buffers_init
from fastgate._core.shared.cells cimport cells_of_limiter, cells_of_quota
from fastgate._core.shared.counters cimport counters_worker
from fastgate._core.shared.credentials cimport CredentialIndex
from fastgate._core.shared.lookup cimport credential_find, credential_of
from fastgate._core.http1.entry cimport entry_of
from fastgate._core.http1.server cimport (
    down_accepted, down_close, down_connected, down_data, down_drain, down_drained, down_hup, down_progress, pause_accept, resume_accept)
from fastgate._core.exchange.ending cimport exchange_cut, exchange_gone, exchange_unread
from fastgate._core.exchange.exchange cimport (
    exchange_body, exchange_go_on, exchange_head, exchange_head_bad, exchange_late, exchange_line)
from fastgate._core.exchange.forward cimport (
    call_can_write, call_got_body, call_got_head, call_got_interim, call_has_failed, call_must_render,
    exchange_drained)
from fastgate._core.handlers.tasks cimport begin_upcalls, wake_upcalls
from fastgate._core.http.head cimport MAX_FIELDS
from fastgate._core.money.money_file cimport MoneyFile
from fastgate._core.io.lag cimport lag_start
from fastgate._core.io.libuv cimport hook_close, hook_fd, hook_open, libuv_load
from fastgate._core.io.outer_loop cimport outer_free, outer_init, outer_leave, outer_timer_set, outer_watch
from fastgate._core.io.tls cimport tls_free_scratch
from fastgate._core.io.poller cimport poller_add_listener, poller_free, poller_init, poller_remove
from fastgate._core.rounds cimport (
    bury, finish_rounds, for_python, has_more, one_round, publish, read_window_clock, rounds)
from fastgate._core.upstream.pool cimport pool_forget_sessions, pool_free, pool_init
from fastgate._core.upstream.waiting cimport waiting_free
from fastgate._core.exchange.snapshot_ref cimport unpin_all
from fastgate._core.snapshot.snapshot cimport Snapshot
from fastgate._core.tls.choice cimport listener_of
from fastgate._core.exchange.subrequest cimport subs_close, subs_free
from fastgate._core.reports cimport Reports
from fastgate._core.tls.ring cimport TlsRing
from fastgate._core.tokens.issuers cimport IssuerRing
from fastgate._core.tokens.verdicts cimport verdicts_forget
from fastgate._core.state cimport (
    MAX_LISTENERS, MAX_POOLS, core, digest_fn, downstream, exchange, lookup_fn, snapref, upstream)
from fastgate._core.io.connection cimport (
    KIND_DOWN, KIND_LISTENER, KIND_TIMER, KIND_UP, conn, conn_events)
from fastgate._core.platform.sys cimport errno, getrandom, monotonic_ns, realtime_ns
from fastgate._core.io.timer cimport timer_arm, timer_free, timer_init, timer_set
from fastgate._core.upstream.call cimport up_connected, up_data, up_drained, up_progress
from fastgate._core.upstream.connection cimport upstream_close

import asyncio
import os
import resource

import uvloop

from fastgate._core.tls.keyring import listener_id

cdef enum:
    KEEP_SMALL = 512          # free buffers kept: 8 MiB
    KEEP_LARGE = 32           # 2 MiB
    OTHER_DESCRIPTORS = 64    # for handlers' files, snapshots, modules
    RESPONSE_HEAD = 16000     # bytes of an upstream's head; it fits a small buffer


cdef int check(int error) except -1:
    """Raise OSError for -errno."""
    if error < 0:
        raise OSError(-error, os.strerror(-error))
    return 0


cdef uint32_t descriptors_left() except 0:
    """How many connections the free descriptors allow for; some are reserved for everything else."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return 1u << 31
    try:
        # Descriptors in use are not always the lowest, so they are counted, less the one used for the listing.
        used = sum(int(name) < limit for name in os.listdir("/proc/self/fd")) - 1
    except OSError:                      # no /proc: assume that they are the lowest
        used = os.memfd_create("fastgate-probe")
        os.close(used)
    return max(2, min(1u << 31, limit - used - min(OTHER_DESCRIPTORS, limit // 8)))


cdef uint64_t listeners_used(core *c) noexcept nogil:
    """The listeners that accept, and those whose connections are still open: by their index."""
    cdef uint64_t used = 0
    cdef const downstream *d = c.downs
    cdef uint32_t i
    for i in range(c.n_listeners):
        if c.listeners[i].fd >= 0:
            used |= 1ull << i
    while d is not NULL:
        used |= 1ull << d.listener
        d = d.next
    return used


cdef class Engine(Reports):
    """The data plane of worker `worker`, counting into `segment`.

    Not thread-safe: one event loop owns it. After `run_in(loop)` it waits in that loop.
    """

    def __cinit__(self, Segment segment not None, uint32_t worker):
        cdef core *c
        if worker >= segment.header.workers:
            raise ValueError(f"there is no worker {worker}: the segment has {segment.header.workers}, counted from 0")
        self.segment = segment
        self.c = <core *>calloc(1, sizeof(core))
        if self.c is NULL:
            raise MemoryError
        c = self.c
        self.keys = {}
        self.rings = []
        c.loop.epfd = -1
        c.loop.timerfd = -1
        c.worker = worker
        c.segment = segment.header
        c.row = segment.worker(worker)
        c.counters = counters_worker(segment.header, worker)
        c.limiter = cells_of_limiter(segment.header)
        c.quota = cells_of_quota(segment.header)
        buffers_init(&c.loop.bufs, KEEP_SMALL, KEEP_LARGE)
        c.loop.now = monotonic_ns()
        c.unix_offset = realtime_ns() - <int64_t>c.loop.now
        c.offset_read = c.loop.now
        read_window_clock(c)
        if getrandom(c.random, sizeof(c.random), 0) != sizeof(c.random):
            raise OSError(errno, "getrandom")
        c.lookup = <lookup_fn><void *>credential_find
        c.lookup_digest = <digest_fn><void *>credential_of
        c.descriptors = descriptors_left()
        c.pause.kind = KIND_TIMER
        c.pause.fd = -1
        c.pause.loop = &c.loop
        check(poller_init(&c.loop))
        if timer_init(&c.loop) < 0 or pool_init(c) < 0:
            raise OSError(errno, os.strerror(errno))
        fill_sinks(c)
        c.clock.kind = KIND_TIMER
        c.clock.fd = c.loop.timerfd
        c.clock.loop = &c.loop
        check(poller_add_listener(&c.loop, &c.clock))
        check(outer_init(&c.loop))

    def __dealloc__(self):
        cdef core *c = self.c
        cdef upstream *u
        cdef downstream *d
        cdef exchange *e
        if c is NULL:
            return
        self.leave()
        bury(c, 1)
        waiting_free(c)
        outer_free(&c.loop)
        poller_free(&c.loop)
        timer_free(&c.loop)
        pool_free(c)
        buffers_free(&c.loop.bufs)
        tls_free_scratch(&c.loop)
        while c.free_ups is not NULL:
            u = c.free_ups
            c.free_ups = u.next
            free(u)
        while c.free_downs is not NULL:
            d = c.free_downs
            c.free_downs = d.next
            free(d)
        while c.free_exchanges is not NULL:
            e = c.free_exchanges
            c.free_exchanges = e.next
            free(e)
        subs_free(c)
        if c.tokens is not NULL:
            verdicts_forget(&c.tokens.known)
            free(c.tokens)
        free(c)
        self.c = NULL

    # ---- configuration ------------------------------------------------------------------

    def listen(self, int fd, str key) -> None:
        """Accept connections from a listening socket; the caller keeps it open. `key`: `messages.Listener.key`, by which
        the snapshot and the keyring know it. Raises ValueError if there are too many listeners, OSError if epoll fails."""
        cdef core *c = self.c
        cdef conn *x = NULL
        cdef uint32_t i
        cdef uint64_t used = listeners_used(c)
        cdef int error
        for i in range(MAX_LISTENERS):
            if not used >> i & 1:
                x = &c.listeners[i]
                if i >= c.n_listeners:
                    c.n_listeners = i + 1
                break
        if x is NULL:
            raise ValueError(f"a worker has at most {MAX_LISTENERS} listeners")
        x.kind = KIND_LISTENER
        x.loop = &c.loop
        x.fd = fd
        self.keys[i] = key.encode()
        c.listener_ids[i] = listener_id(key)
        self.find(i)
        if c.accepting:
            error = poller_add_listener(&c.loop, x)
            if error < 0:
                x.fd = -1
                raise OSError(-error, os.strerror(-error), key)

    def unlisten(self, int fd) -> None:
        """Stop accepting from this socket."""
        cdef core *c = self.c
        cdef uint32_t i
        for i in range(c.n_listeners):
            if c.listeners[i].kind and c.listeners[i].fd == fd:
                if c.accepting:
                    poller_remove(&c.loop, &c.listeners[i])
                c.listeners[i].fd = -1
                return
        raise ValueError(f"no listener has descriptor {fd}")

    def install(self, Snapshot snapshot not None, list handlers not None) -> None:
        """Serve this snapshot from now on. Exchanges in flight keep theirs, or a copy of what they still need.

        handlers: one callable for each name of `snapshot.handlers()`, in that order.
        """
        cdef core *c = self.c
        cdef snapref *r = <snapref *>calloc(1, sizeof(snapref))
        cdef uint32_t i
        if r is NULL:
            raise MemoryError
        r.snap = snapshot.header
        r.object = <void *>snapshot
        r.handlers = <void *>handlers
        Py_INCREF(snapshot)
        Py_INCREF(handlers)
        self.retire()
        c.ref = r
        for i in range(c.n_listeners):
            self.find(i)
        c.request_caps.line = r.snap.max_line
        c.request_caps.head = r.snap.max_head
        c.request_caps.fields = r.snap.max_fields if r.snap.max_fields < MAX_FIELDS else MAX_FIELDS
        c.request_caps.field = r.snap.max_field
        c.response_caps.line = 8192
        c.response_caps.head = RESPONSE_HEAD
        c.response_caps.fields = MAX_FIELDS
        c.response_caps.field = RESPONSE_HEAD
        lag_start(&c.loop.lag, r.snap.shed_lag_ns != 0, monotonic_ns())
        fg_store(&c.row.generation, r.snap.generation)    # reported as served: after everything that serving needs
        self.sweep()
        unpin_all(c)
        if c.unpin_at is not NULL:
            self.kick()
        resume_accept(c)

    def check_keyring(self, keyring) -> None:
        """Raise what `set_keyring` would raise."""
        TlsRing(keyring)
        IssuerRing(keyring)

    def set_keyring(self, keyring) -> None:
        """Use what this keyring has (`keyring.read`) for new connections. Raises KeyringError if something in it cannot
        be used; then the old one stays in use."""
        cdef TlsRing ring = TlsRing(keyring)
        cdef IssuerRing issuers = IssuerRing(keyring)
        cdef uint32_t i
        # Handshakes in progress go on with the ring that they began with.
        self.rings = [each for each in self.rings if each.busy]
        self.rings.append(ring)
        self.c.tls = &ring.ring
        self.c.issuers = &issuers.ring   # nothing refers to the old one
        self.issuers = issuers
        self.c.keyrings += 1
        pool_forget_sessions(self.c)     # the new one may trust others
        for i in range(self.c.n_listeners):
            self.find(i)

    cdef int find(self, uint32_t i) except -1:
        """Find what the current snapshot and keyring have about a listener's new connections."""
        cdef bytes key = self.keys.get(i, b"")
        self.c.entries[i] = entry_of(self.c.ref.snap, self.c.listener_ids[i]) if self.c.ref is not NULL else NULL
        self.c.tls_of[i] = listener_of(self.c.tls, key, len(key)) if self.c.tls is not NULL else NULL
        return 0

    def set_credentials(self, CredentialIndex index not None) -> None:
        """Look credentials up in this index from now on."""
        self.credentials = index
        self.c.credentials = <void *>index
        self.c.index_head = index.header

    def set_money(self, MoneyFile money not None) -> None:
        """Charge through this map, bound to the engine's segment. Without a map, priced routes refuse."""
        self.money = money
        self.c.money = money.worker_view(self.c.worker)

    def drain(self) -> None:
        """Stop accepting, close idle connections, let the rest finish with Connection: close.

        Connections in the accept queues are accepted first, and a connection that has not sent its
        first request yet gets a second to do so, and one for its TLS handshake before that: every
        accepted connection is served.
        """
        cdef core *c = self.c
        cdef downstream *d
        cdef downstream *following
        cdef uint32_t i, before
        c.loop.now = monotonic_ns()
        if c.accepting:
            for i in range(c.n_listeners):
                before = c.n_downs + 1
                while c.listeners[i].fd >= 0 and c.n_downs != before and c.accepting:
                    before = c.n_downs
                    down_accepted(&c.listeners[i])
            pause_accept(c)
        c.draining = 1
        timer_set(&c.loop, &c.pause, 0)
        d = c.downs
        while d is not NULL:
            following = d.next
            down_drain(d)
            d = following
        bury(c, 0)
        timer_arm(&c.loop)
        publish(c)

    @property
    def idle(self) -> bool:
        """Whether no connection and no exchange is left."""
        return self.c.n_downs == 0 and self.c.n_exchanges == 0

    # ---- the loop -----------------------------------------------------------------------

    def run_in(self, loop) -> None:
        """Wait in place of this uvloop event loop, from its next turn until `close`.

        Only one engine can do this for a loop; others can be watched: see `fileno` and `poll`. Raises TypeError for
        another kind of loop, RuntimeError if libuv cannot be reached, OSError if epoll fails.
        """
        cdef core *c = self.c
        cdef const char *missing
        cdef uv_hook *hook
        if not isinstance(loop, uvloop.Loop):
            raise TypeError(f"a {type(loop).__name__} is not a uvloop event loop")
        if self.hook is not NULL or self.closed:
            raise RuntimeError("the engine already has an event loop, or is closed")
        path = os.fsencode(uvloop.loop.__file__)
        missing = libuv_load(path)
        if missing is not NULL:
            raise RuntimeError(f"{os.fsdecode(path)} has no function {missing.decode()}; install uvloop 0.21 or newer")
        hook = hook_open(PyCapsule_GetPointer(uvloop.loop.libuv_get_loop_t_ptr(loop), NULL), turn, c)
        if hook is NULL:
            raise MemoryError
        self.hook = hook
        self.loop = loop
        c.engine = <void *>self
        try:
            check(outer_watch(&c.loop, hook_fd(hook)))
        except OSError:
            self.leave()                 # or it would wait without noticing that the loop has work
            raise

    def fileno(self) -> int:
        """The descriptor to watch for reading, if the engine does not wait itself."""
        return self.c.loop.epfd

    def poll(self) -> None:
        """Handle what is ready. Called when `fileno()` is readable."""
        cdef core *c = self.c
        if self.closed:
            return
        c.loop.lag.unknown = self.hook is NULL    # else the engine itself has slept, if anyone has
        with nogil:
            rounds(c)
        self.hand_over()
        if has_more(c):
            self.kick()

    cdef int hand_over(self) except -1:
        """Do what is left for Python after the rounds."""
        cdef core *c = self.c
        if c.upcall_head is not NULL or c.wake_head is not NULL:
            if self.loop is None:
                self.loop = asyncio.get_running_loop()
            begin_upcalls(self, c)
            wake_upcalls(c)
        if c.released is not NULL:
            self.sweep()
        if c.n_questions and self.on_questions is not None:
            self.on_questions()
        return 0

    cdef void retire(self) noexcept:
        """Stop using the current snapshot for new exchanges; its last exchange releases it."""
        cdef core *c = self.c
        cdef snapref *r = c.ref
        if r is NULL:
            return
        c.ref = NULL
        if r.in_flight == 0:
            r.next = c.released
            c.released = r
            return
        r.prev = NULL
        r.next = c.retired
        if r.next is not NULL:
            r.next.prev = r
        c.retired = r

    cdef int sweep(self) except -1:
        """Release the snapshots that no exchange uses any longer, which unmaps them."""
        cdef snapref *r
        while self.c.released is not NULL:
            r = self.c.released
            self.c.released = r.next
            if r.object is not NULL:
                Py_DECREF(<object>r.object)
                Py_DECREF(<object>r.handlers)
            free(r)
        return 0

    cdef int kick(self) except -1:
        """Ask the event loop to call poll() again without an event."""
        if self.kicked or self.closed or self.hook is not NULL:      # its next turn comes anyway
            return 0
        if self.loop is None:
            self.loop = asyncio.get_running_loop()
        self.kicked = True
        self.loop.call_soon(self.kicked_poll)
        return 0

    cdef int follow_up(self) except -1:
        """After a call into the engine: leave to the next poll what is left to do."""
        if self.c.released is not NULL:
            self.sweep()
        if self.closed:
            bury(self.c, 1)
            return 0
        timer_arm(&self.c.loop)                # a new deadline may be the next event
        if has_more(self.c) or self.c.wake_head is not NULL:
            self.kick()
        return 0

    def kicked_poll(self) -> None:
        """poll(), called by the loop after a kick."""
        self.kicked = False
        self.poll()

    # ---- counts, and the end ------------------------------------------------------------

    def stats(self) -> dict[str, int]:
        """What is alive now. When nothing runs, all but `idle_upstreams` and the connections are 0."""
        cdef core *c = self.c
        return {
            "connections": c.n_downs,
            "exchanges": c.n_exchanges,
            "upstreams": c.n_ups,
            "idle_upstreams": c.n_idle,
            "upcalls": c.n_upcalls,
            "streams": c.n_streams,
            "calls": c.n_calls,
            "subrequests": c.n_subs,
            "waiting": c.n_waits,
            "buffers": c.loop.bufs.alive,
            "retired_snapshots": self.count_retired(),
            "handshakes": c.n_handshakes,
            "rested": self.count_rested(),
            "accepting": c.accepting,
        }

    def close(self) -> None:
        """Close every connection at once; exchanges in flight are logged as aborted."""
        cdef core *c = self.c
        cdef downstream *d
        cdef downstream *following
        cdef uint32_t i
        if self.closed:
            return
        self.closed = True
        c.loop.now = monotonic_ns()
        c.draining = 1
        pause_accept(c)
        d = c.downs
        while d is not NULL:
            following = d.next
            if d.ex is not NULL and d.ex.ref is not NULL:
                exchange_cut(d.ex)
            else:
                down_close(d)
            d = following
        subs_close(c)
        for i in range(MAX_POOLS):
            while c.pools[i].idle is not NULL:
                upstream_close(c, c.pools[i].idle)
        begin_upcalls(self, c)           # the handlers that have not started: their exchanges have been abandoned
        wake_upcalls(c)
        bury(c, 1)
        self.retire()
        self.sweep()
        buf_trim(&c.loop.bufs)
        publish(c)
        self.leave()

    cdef void leave(self) noexcept:
        """Let the event loop wait by itself again."""
        if self.hook is not NULL:
            hook_close(self.hook)
            self.hook = NULL
            self.c.engine = NULL
            outer_leave(&self.c.loop)


# ---- rounds -------------------------------------------------------------------------------

cdef void turn(void *owner, int idle_ms) noexcept nogil:
    """A turn of the event loop, after its own poll: rounds, and waits between them while the loop has nothing to do."""
    cdef core *c = <core *>owner
    c.loop.outer_due = 0
    if idle_ms == 0:
        rounds(c)
        if for_python(c):
            with_python(c)
        return
    if idle_ms > 0:
        outer_timer_set(&c.loop, monotonic_ns() + <uint64_t>idle_ms * 1000000)
    while not c.loop.outer_due:
        one_round(c, 0 if has_more(c) else -1)
        finish_rounds(c)
        if for_python(c):
            with_python(c)
            return


cdef void with_python(core *c) noexcept with gil:
    cdef Engine engine = <Engine>c.engine
    try:
        engine.hand_over()
    except BaseException as error:
        engine.loop.call_exception_handler({"message": "the engine cannot start a handler", "exception": error})


cdef void fill_sinks(core *c) noexcept:
    cdef conn_events *down = &c.loop.on[<int>KIND_DOWN]
    cdef conn_events *up = &c.loop.on[<int>KIND_UP]
    c.loop.accepted = down_accepted
    down.connected = down_connected
    down.data = down_data
    down.drained = down_drained
    down.progress = down_progress
    down.hup = down_hup
    up.connected = up_connected
    up.data = up_data
    up.drained = up_drained
    up.progress = up_progress
    c.sink.line = exchange_line
    c.sink.head = exchange_head
    c.sink.head_bad = exchange_head_bad
    c.sink.late = exchange_late
    c.sink.body = exchange_body
    c.sink.drained = exchange_drained
    c.sink.gone = exchange_gone
    c.sink.unread = exchange_unread
    c.sink.go_on = exchange_go_on
    c.sink.call_head = call_got_head
    c.sink.call_interim = call_got_interim
    c.sink.call_body = call_got_body
    c.sink.call_failed = call_has_failed
    c.sink.call_writable = call_can_write
    c.sink.call_render = call_must_render
