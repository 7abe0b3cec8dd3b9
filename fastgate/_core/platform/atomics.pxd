"""Atomics: Cython has no <stdatomic.h>, so everything it needs is declared here.

Every word that two processes share is accessed only through these functions. The names give
the order: `load`/`store` are acquire/release, the others sequentially consistent.

Several words that belong together must be read and written in an order, and arm64 keeps no order that
is not requested: neither between plain loads and stores, nor between a plain load and a later `fg_load`,
nor between a `fg_store` and a later plain store. For the last two, use `fg_read_before` and
`fg_write_after`.

`fg_cas16` is `cmpxchg16b` on x86-64 (-mcx16) and CASP or LDXP/STXP on arm64, depending on the processor
(gcc's outline atomics choose). It uses `__sync` since gcc turns `__atomic` on 16 bytes into a call to
libatomic, which may take a lock, and a lock does not survive a kill.
"""
from libc.stdint cimport uint32_t, uint64_t

cdef extern from *:
    """
    #ifndef FASTGATE_ATOMICS
    #define FASTGATE_ATOMICS
    #include <stdint.h>
    static inline uint64_t fg_load(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline void fg_store(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    static inline uint32_t fg_load32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline void fg_store32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    static inline uint64_t fg_add(uint64_t *p, uint64_t v) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); }
    static inline int fg_cas(uint64_t *p, uint64_t *expected, uint64_t desired) {
        return __atomic_compare_exchange_n(p, expected, desired, 0, __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE);
    }
    static inline void fg_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
    /* All loads above are done before any load or store below. */
    static inline void fg_read_before(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
    /* All loads and stores above are done before any store below. */
    static inline void fg_write_after(void) { __atomic_thread_fence(__ATOMIC_RELEASE); }
    /* In a loop that waits for another core: easy on the bus, and on a sibling thread. */
    static inline void fg_pause(void) {
    #if defined(__x86_64__)
        __builtin_ia32_pause();
    #elif defined(__aarch64__)
        __asm__ __volatile__("yield");
    #endif
    }
    static inline void fg_prefetch(const void *p) { __builtin_prefetch(p); }
    static inline void fg_prefetch_write(const void *p) { __builtin_prefetch(p, 1); }
    /* One 16-byte word {lo, hi}: expected and desired by value; 1 if it was exchanged. */
    static inline int fg_cas16(void *p, uint64_t expected_lo, uint64_t expected_hi,
                               uint64_t desired_lo, uint64_t desired_hi) {
        unsigned __int128 e = ((unsigned __int128)expected_hi << 64) | expected_lo;
        unsigned __int128 d = ((unsigned __int128)desired_hi << 64) | desired_lo;
        return __sync_bool_compare_and_swap((unsigned __int128 *)p, e, d);
    }
    #endif
    """
    uint64_t fg_load(const uint64_t *p) noexcept nogil
    void fg_store(uint64_t *p, uint64_t v) noexcept nogil
    uint32_t fg_load32(const uint32_t *p) noexcept nogil
    void fg_store32(uint32_t *p, uint32_t v) noexcept nogil
    uint64_t fg_add(uint64_t *p, uint64_t v) noexcept nogil
    int fg_cas(uint64_t *p, uint64_t *expected, uint64_t desired) noexcept nogil
    void fg_fence() noexcept nogil
    void fg_read_before() noexcept nogil
    void fg_write_after() noexcept nogil
    void fg_pause() noexcept nogil
    int fg_cas16(void *p, uint64_t expected_lo, uint64_t expected_hi,
                 uint64_t desired_lo, uint64_t desired_hi) noexcept nogil
    # Fetch a cache line that will be read, or written, some hundred instructions later.
    void fg_prefetch(const void *p) noexcept nogil
    void fg_prefetch_write(const void *p) noexcept nogil
