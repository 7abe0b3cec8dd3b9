"""checks: assertions and poisoning of free memory, in checked builds only.

A release build contains none of this. The debug build overwrites memory that goes into a free list,
so code that still uses it reads garbage at once. Under the address sanitizer there are no free
lists: all memory comes from malloc, in the requested size, and goes back to free.
"""
cdef extern from *:
    """
    #ifndef FASTGATE_CHECKS
    #define FASTGATE_CHECKS
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #ifdef FASTGATE_DEBUG
    #define fg_check(holds, text) ((holds) ? (void)0 : fg_failed(__FILE__, __LINE__, text))
    static void __attribute__((noreturn, cold)) fg_failed(const char *file, int line, const char *text) {
        fprintf(stderr, "%s:%d: %s\\n", file, line, text);
        abort();
    }
    static inline void fg_poison(void *p, size_t n) { memset(p, 0xdb, n); }
    #else
    #define fg_check(holds, text) ((void)0)
    #define fg_poison(p, n) ((void)0)
    #endif
    #ifdef __SANITIZE_ADDRESS__
    #define FG_KEEPS 0
    #else
    #define FG_KEEPS 1
    #endif
    #endif
    """
    void fg_check(bint holds, const char *text) noexcept nogil
    void fg_poison(void *p, size_t n) noexcept nogil
    enum:
        FG_KEEPS              # 1: free memory may be kept for reuse
