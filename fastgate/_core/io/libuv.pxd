"""libuv: the event loop below uvloop, as far as the engine needs it to wait in its place."""

ctypedef void (*turn_fn)(void *owner, int idle_ms) noexcept nogil
    # A turn of the loop. idle_ms: for how long it has nothing to do; 0: it has something now; -1: until
    # something happens to the descriptor of `hook_fd`.

cdef struct uv_hook

cdef const char *libuv_load(const char *path) noexcept
    # Find the functions in this shared object, which is already loaded. NULL, or the name of a missing one.
cdef uv_hook *hook_open(void *uv_loop, turn_fn turn, void *owner) noexcept
    # Call `turn` in each turn of the loop, without the GIL, until hook_close. NULL: no memory.
cdef int hook_fd(const uv_hook *h) noexcept nogil
    # Readable when the loop has an event of its own
cdef void hook_close(uv_hook *h) noexcept
    # Call it before the loop is closed. The loop frees the memory in its next turn.
