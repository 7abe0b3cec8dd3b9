/* backend: the cheapest upstream that still speaks HTTP/1.1, so that it never is the bottleneck.
 *
 *     backend 127.0.0.1:9000 [unix:/path …]
 *
 * It listens on all the addresses.
 * One thread, one epoll set, edge-triggered, keep-alive, requests answered in order. The size of
 * the body is asked for in the path, anywhere in it: "/bytes/10240" answers 10,240 bytes, any
 * other path 100. Responses are rendered when first asked for and kept. A request body with
 * Content-Length is read and dropped; chunked requests are not understood and end the connection.
 */
#include <sys/epoll.h>

#include "net.h"

enum { IN = 16384, MAX_BODY = 16 << 20, KINDS = 64, EVENTS = 256, LISTENERS = 4 };

struct response {
    long long size;
    char *bytes;
    size_t len;
};

struct listener {
    int fd;
    struct address address;
};

struct conn {
    int fd;
    size_t in_len;
    long long skip;              /* request body still to be dropped */
    const struct response *next; /* to be written when the body is dropped */
    const struct response *out;  /* being written */
    size_t out_off;
    char in[IN];
};

static struct response kinds[KINDS];
static unsigned nkinds;
static struct listener listeners[LISTENERS];

static const struct response *response_of(long long size)
{
    for (unsigned i = 0; i < nkinds; i++)
        if (kinds[i].size == size)
            return &kinds[i];
    if (size < 0 || size > MAX_BODY || nkinds == KINDS)
        return &kinds[0];
    struct response *r = &kinds[nkinds++];
    char date[64];
    time_t t = time(NULL);
    struct tm tm;
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&t, &tm));
    r->size = size;
    r->bytes = malloc((size_t)size + 512);
    if (!r->bytes)
        die("malloc");
    int n = snprintf(r->bytes, 512,
                     "HTTP/1.1 200 OK\r\nServer: backend\r\nDate: %s\r\n"
                     "Content-Type: application/octet-stream\r\nContent-Length: %lld\r\n"
                     "Cache-Control: no-store\r\nETag: \"5f3c-%llx\"\r\n\r\n",
                     date, size, size);
    memset(r->bytes + n, 'x', (size_t)size);
    r->len = (size_t)n + (size_t)size;
    return r;
}

/* 1: all written; 0: the socket is full, go on at EPOLLOUT; -1: gone. */
static int flush(struct conn *c)
{
    while (c->out) {
        ssize_t n = send(c->fd, c->out->bytes + c->out_off, c->out->len - c->out_off, MSG_NOSIGNAL);
        if (n < 0)
            return errno == EAGAIN ? 0 : -1;
        c->out_off += (size_t)n;
        if (c->out_off == c->out->len)
            c->out = NULL;
    }
    return 1;
}

static long long asked_size(const char *head, size_t len)
{
    const char *line = memchr(head, '\r', len);
    const char *p = line ? memmem(head, (size_t)(line - head), "/bytes/", 7) : NULL;
    return p ? atoll(p + 7) : 100;
}

/* Answers every whole request in the buffer. As flush; 1 also when more bytes are needed. */
static int answer(struct conn *c)
{
    size_t at = 0;
    int rc = flush(c);
    while (rc == 1) {
        size_t left = c->in_len - at;
        if (c->skip > 0) {
            size_t n = (long long)left < c->skip ? left : (size_t)c->skip;
            at += n;
            c->skip -= (long long)n;
            if (c->skip > 0)
                break;
        }
        if (c->next) {
            c->out = c->next;
            c->next = NULL;
            c->out_off = 0;
            rc = flush(c);
            continue;
        }
        left = c->in_len - at;
        const char *head = c->in + at;
        const char *end = memmem(head, left, "\r\n\r\n", 4);
        if (!end) {
            if (at == 0 && c->in_len == IN)
                rc = -1;
            break;
        }
        size_t len = (size_t)(end - head) + 4;
        if (head[0] != 'G') {
            long long n = content_length(head, len);
            c->skip = n > 0 ? n : 0;
        }
        c->next = response_of(asked_size(head, len));
        at += len;
    }
    memmove(c->in, c->in + at, c->in_len - at);
    c->in_len -= at;
    return rc;
}

/* -1: the connection is over. */
static int serve(struct conn *c)
{
    for (;;) {
        int rc = answer(c);
        if (rc <= 0)
            return rc;
        size_t room = IN - c->in_len;
        ssize_t n = recv(c->fd, c->in + c->in_len, room, 0);
        if (n == 0 || (n < 0 && errno != EAGAIN))
            return -1;
        if (n < 0)
            return 0;
        c->in_len += (size_t)n;
        if ((size_t)n < room)
            return answer(c);
    }
}

/* Whether an event is of a listener, not of a connection. */
static int is_listener(const void *p)
{
    return p >= (void *)listeners && p < (void *)(listeners + LISTENERS);
}

static void accept_all(const struct listener *l, int ep)
{
    int fd;
    while ((fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct conn *c = malloc(sizeof *c);
        if (!c)
            die("malloc");
        memset(c, 0, offsetof(struct conn, in));
        c->fd = fd;
        no_delay(fd, &l->address);
        struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
        epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev);
    }
}

int main(int argc, char **argv)
{
    if (argc < 2 || argc > 1 + LISTENERS)
        die("usage: backend HOST:PORT|unix:PATH …");
    raise_descriptors();
    int ep = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event evs[EVENTS];
    for (int i = 1; i < argc; i++) {
        struct listener *l = &listeners[i - 1];
        l->address = parse_address(argv[i]);
        l->fd = listen_on(&l->address);
        struct epoll_event ev = {.events = EPOLLIN, .data.ptr = l};
        if (ep < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, l->fd, &ev))
            die("epoll");
    }
    response_of(100);
    for (;;) {
        int n = epoll_wait(ep, evs, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            if (is_listener(evs[i].data.ptr)) {
                accept_all(evs[i].data.ptr, ep);
                continue;
            }
            struct conn *c = evs[i].data.ptr;
            /* a peer that has closed its side is gone: nothing here half-closes */
            if (serve(c) < 0 || evs[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
                close(c->fd);
                free(c);
            }
        }
    }
}
