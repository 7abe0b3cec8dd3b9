"""libuv: the event loop below uvloop, as far as the engine needs it to wait in its place."""

ctypedef void (*turn_fn)(void *owner, int idle_ms) noexcept nogil
    # A turn of the loop. idle_ms: for how long it has nothing to do; 0: it has; -1: until something happens to
    # the descriptor of `hook_fd`.

cdef struct uv_hook

cdef const char *libuv_load(const char *path) noexcept
    # Find the functions in this shared object, which is loaded already. NULL, or the name of one that is missing.
cdef uv_hook *hook_open(void *uv_loop, turn_fn turn, void *owner) noexcept
    # Have `turn` called in each turn of the loop, without the GIL, until hook_close. NULL: no memory.
cdef int hook_fd(const uv_hook *h) noexcept nogil
    # readable when the loop has an event of its own
cdef void hook_close(uv_hook *h) noexcept
    # Before the loop is closed. Memory is freed by the loop, in its next turn.
