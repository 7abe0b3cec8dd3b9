/* What the three tools share: a clock, sockets by "host:port" or "unix:/path", small parsing. */
#ifndef FASTGATE_BENCH_NET_H
#define FASTGATE_BENCH_NET_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

struct address {
    struct sockaddr_storage sa;
    socklen_t len;
};

static inline uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline void die(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, errno ? strerror(errno) : "bad argument");
    exit(2);
}

/* "127.0.0.1:8080" or "unix:/path". Loopback benchmarks need no names and no IPv6. */
static inline struct address parse_address(const char *text)
{
    struct address a;
    memset(&a, 0, sizeof a);
    if (!strncmp(text, "unix:", 5)) {
        struct sockaddr_un *un = (struct sockaddr_un *)&a.sa;
        if (strlen(text + 5) >= sizeof un->sun_path)
            die(text);
        un->sun_family = AF_UNIX;
        strcpy(un->sun_path, text + 5);
        a.len = sizeof *un;
        return a;
    }
    const char *colon = strrchr(text, ':');
    char host[64];
    if (!colon || (size_t)(colon - text) >= sizeof host)
        die(text);
    memcpy(host, text, (size_t)(colon - text));
    host[colon - text] = 0;
    struct sockaddr_in *in = (struct sockaddr_in *)&a.sa;
    in->sin_family = AF_INET;
    in->sin_port = htons((uint16_t)atoi(colon + 1));
    if (inet_pton(AF_INET, host, &in->sin_addr) != 1)
        die(text);
    a.len = sizeof *in;
    return a;
}

static inline void no_delay(int fd, const struct address *a)
{
    int one = 1;
    if (a->sa.ss_family == AF_INET)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static inline int listen_on(const struct address *a)
{
    int one = 1;
    int fd = socket(a->sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        die("socket");
    if (a->sa.ss_family == AF_INET)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (const struct sockaddr *)&a->sa, a->len) || listen(fd, 4096))
        die("listen");
    return fd;
}

/* As many descriptors as the hard limit lets us have. */
static inline void raise_descriptors(void)
{
    struct rlimit r;
    if (!getrlimit(RLIMIT_NOFILE, &r)) {
        r.rlim_cur = r.rlim_max;
        setrlimit(RLIMIT_NOFILE, &r);
    }
}

/* Value of Content-Length in a head of `len` bytes, or -1. Trusts its peers: benchmark use. */
static inline long long content_length(const char *head, size_t len)
{
    static const char name[] = "content-length:";
    const char *end = head + len;
    for (const char *p = head; (p = memchr(p, '\n', (size_t)(end - p))) != NULL;) {
        p++;
        if ((size_t)(end - p) < sizeof name)
            return -1;
        if ((*p | 32) == 'c' && !strncasecmp(p, name, sizeof name - 1))
            return atoll(p + sizeof name - 1);
    }
    return -1;
}

#endif
