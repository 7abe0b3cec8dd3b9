"""libuv: the event loop below uvloop, as far as the engine needs it to wait in its place.

If the loop waited in its own epoll set, with the engine's nested in it, each wake-up would cost two
epoll_wait() and a pass through Python. So it is the other way round: the engine waits, and the loop's
descriptor is one of those that it waits for:

    a turn of the loop    timers → Python's callbacks → poll, without waiting → check → closed handles
                                                                                  │
                          the engine's rounds. It waits between them while the loop has nothing to do.

An idle handle keeps libuv from waiting. The check handle comes after the poll, in which libuv tells the
kernel what it wants to watch. `uv_backend_timeout` returns for how long there is nothing to do: 0 if a
callback is due, if the kernel does not know a descriptor yet, or if the loop is to stop.

libuv is linked into uvloop's module, and its functions are looked up there by name. Its binary interface
is stable within version 1, including the numbers of handle types.
"""
from libc.stdlib cimport calloc, free

from fastgate._core.platform.sys cimport RTLD_LAZY, RTLD_NOLOAD, dlopen, dlsym

cdef enum:
    UV_CHECK = 2              # uv_handle_type
    UV_IDLE = 6
    BEFORE = 16               # before a handle, to find its hook; a handle stays aligned

ctypedef void (*handle_fn)(void *handle) noexcept nogil

cdef struct libuv:
    size_t (*handle_size)(int type) noexcept nogil
    int (*check_init)(void *loop, void *handle) noexcept nogil
    int (*check_start)(void *handle, handle_fn called) noexcept nogil
    int (*idle_init)(void *loop, void *handle) noexcept nogil
    int (*idle_start)(void *handle, handle_fn called) noexcept nogil
    int (*idle_stop)(void *handle) noexcept nogil
    void (*close)(void *handle, handle_fn closed) noexcept nogil
    int (*backend_fd)(const void *loop) noexcept nogil
    int (*backend_timeout)(const void *loop) noexcept nogil

cdef struct uv_hook:
    void *loop
    char *check
    char *idle
    int handles               # not closed yet
    turn_fn turn
    void *owner               # NULL: closed

cdef libuv uv


cdef const char *libuv_load(const char *path) noexcept:
    cdef const char **name
    cdef const char *names[10]
    cdef void **into = <void **>&uv      # in the order of the struct
    cdef void *object = dlopen(path, RTLD_LAZY | RTLD_NOLOAD)
    names[:] = [
        b"uv_handle_size", b"uv_check_init", b"uv_check_start", b"uv_idle_init",
        b"uv_idle_start", b"uv_idle_stop", b"uv_close", b"uv_backend_fd", b"uv_backend_timeout", NULL]
    name = names
    while name[0] is not NULL:
        into[0] = dlsym(object, name[0]) if object is not NULL else NULL
        if into[0] is NULL:
            return name[0]
        into += 1
        name += 1
    return NULL


cdef inline uv_hook *hook_of(void *handle) noexcept nogil:
    return (<uv_hook **>(<char *>handle - BEFORE))[0]


cdef char *new_handle(uv_hook *h, int type) noexcept:
    # Zeroed: a handle begins with a pointer to data, in which uvloop looks for an object of its own.
    cdef char *p = <char *>calloc(1, BEFORE + uv.handle_size(type))
    if p is NULL:
        return NULL
    (<uv_hook **>p)[0] = h
    return p + BEFORE


cdef void free_handle(char *handle) noexcept nogil:
    if handle is not NULL:
        free(handle - BEFORE)


cdef void on_idle(void *handle) noexcept nogil:
    """An idle handle only has to exist: libuv does not wait then."""


cdef void on_check(void *handle) noexcept nogil:
    cdef uv_hook *h = hook_of(handle)
    cdef int idle_ms
    if h.owner is NULL:
        return
    uv.idle_stop(h.idle)                 # otherwise libuv would never be idle
    idle_ms = uv.backend_timeout(h.loop)
    uv.idle_start(h.idle, on_idle)
    h.turn(h.owner, idle_ms)


cdef void on_closed(void *handle) noexcept nogil:
    cdef uv_hook *h = hook_of(handle)
    free_handle(<char *>handle)
    h.handles -= 1
    if h.handles == 0:
        free(h)


cdef uv_hook *hook_open(void *uv_loop, turn_fn turn, void *owner) noexcept:
    cdef uv_hook *h = <uv_hook *>calloc(1, sizeof(uv_hook))
    if h is NULL:
        return NULL
    h.check = new_handle(h, UV_CHECK)
    h.idle = new_handle(h, UV_IDLE)
    if h.check is NULL or h.idle is NULL:
        free_handle(h.check)
        free_handle(h.idle)
        free(h)
        return NULL
    h.loop = uv_loop
    h.turn = turn
    h.owner = owner
    h.handles = 2
    # None of these four can fail, in any version.
    uv.check_init(uv_loop, h.check)
    uv.idle_init(uv_loop, h.idle)
    uv.check_start(h.check, on_check)
    uv.idle_start(h.idle, on_idle)
    return h


cdef int hook_fd(const uv_hook *h) noexcept nogil:
    return uv.backend_fd(h.loop)


cdef void hook_close(uv_hook *h) noexcept:
    h.owner = NULL
    uv.close(h.check, on_closed)
    uv.close(h.idle, on_closed)
