/* backend: the cheapest upstream that still speaks HTTP/1.1, so that it never is the bottleneck.
 *
 *     backend [--cert PEM --key PEM [--cipher SUITE] [--group NAME]] ADDRESS …
 *
 * An address is as 127.0.0.1:9000, unix:/path or tls:127.0.0.1:9443. It listens on all of them; on those
 * with "tls:" it speaks TLS, and agrees to nothing but the suite and the group that are given.
 * One thread, one epoll set, edge-triggered, keep-alive, requests answered in order. The size of
 * the body is asked for in the path, anywhere in it: "/bytes/10240" answers 10,240 bytes, any
 * other path 100; "/handshakes" answers how many handshakes there were, "<full> <resumed>".
 * Responses are rendered when first asked for and kept. A request body with Content-Length is read
 * and dropped; chunked requests are not understood and end the connection. "Connection: close" is
 * heeded with TLS alone, whose clients wait for the server to close.
 */
#include <signal.h>
#include <sys/epoll.h>

#include "tls.h"

enum { IN = 16384, MAX_BODY = 16 << 20, KINDS = 64, EVENTS = 256, LISTENERS = 4 };

struct response {
    long long size;
    char *bytes;
    size_t len;
};

struct listener {
    int fd, secure;
    struct address address;
};

struct conn {
    int fd, shaken, last;
    SSL *ssl; /* or NULL */
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
static SSL_CTX *tls;
static unsigned long long full, resumed;

/* Sizes below 0 are for the counts. */
static const struct response *response_of(long long size)
{
    static struct response counts;
    for (unsigned i = 0; i < nkinds; i++)
        if (kinds[i].size == size)
            return &kinds[i];
    if (size < 0) {
        free(counts.bytes);
        int body = snprintf(NULL, 0, "%llu %llu", full, resumed);
        int n = asprintf(&counts.bytes, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%llu %llu", body, full, resumed);
        if (n < 0)
            die("memory");
        counts.len = (size_t)n;
        return &counts;
    }
    if (size > MAX_BODY || nkinds == KINDS)
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
        const char *p = c->out->bytes + c->out_off;
        size_t left = c->out->len - c->out_off;
        ssize_t n = c->ssl ? tls_send(c->ssl, p, left) : send(c->fd, p, left, MSG_NOSIGNAL);
        if (n <= 0)
            return n && errno == EAGAIN ? 0 : -1;
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
    if (line && !p && memmem(head, (size_t)(line - head), "/handshakes", 11))
        return -1;
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
        c->last = c->ssl && memmem(head, len, "Connection: close", 17);
        at += len;
    }
    memmove(c->in, c->in + at, c->in_len - at);
    c->in_len -= at;
    return rc == 1 && c->last && !c->next ? -1 : rc;
}

/* As answer: 1 once the handshake is complete. */
static int shake(struct conn *c)
{
    if (!c->ssl || c->shaken)
        return 1;
    ERR_clear_error();
    ssize_t n = tls_result(c->ssl, SSL_accept(c->ssl));
    if (n <= 0)
        return n && errno == EAGAIN ? 0 : -1;
    c->shaken = 1;
    ++*(SSL_session_reused(c->ssl) ? &resumed : &full);
    return 1;
}

/* -1: the connection is over. */
static int serve(struct conn *c)
{
    for (;;) {
        int rc = shake(c);
        if (rc == 1)
            rc = answer(c);
        if (rc <= 0)
            return rc;
        size_t room = IN - c->in_len;
        char *to = c->in + c->in_len;
        ssize_t n = c->ssl ? tls_recv(c->ssl, to, room) : recv(c->fd, to, room, 0);
        if (n == 0 || (n < 0 && errno != EAGAIN))
            return -1;
        if (n < 0)
            return 0;
        c->in_len += (size_t)n;
        if (!c->ssl && (size_t)n < room)
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
        if (l->secure) {
            c->ssl = SSL_new(tls);
            tls_must(c->ssl && SSL_set_fd(c->ssl, fd), "a connection of TLS");
            SSL_set_accept_state(c->ssl);
        }
        no_delay(fd, &l->address);
        struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
        epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev);
    }
}

static void drop(struct conn *c)
{
    if (c->ssl)
        tls_end(c->ssl, c->last);
    close(c->fd);
    free(c);
}

static void listen_at(const char *text, struct listener *l, int ep)
{
    l->secure = !strncmp(text, "tls:", 4);
    if (l->secure && !tls)
        die("tls: needs --cert PEM --key PEM before it");
    l->address = parse_address(text + (l->secure ? 4 : 0));
    l->fd = listen_on(&l->address);
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = l};
    if (epoll_ctl(ep, EPOLL_CTL_ADD, l->fd, &ev))
        die("epoll");
}

/* Takes the options; the index of the first argument that is none. */
static int options(int argc, char **argv)
{
    struct tls_terms terms = {0};
    const char *cert = NULL, *key = NULL;
    const struct {
        const char *name, **to;
    } known[] = {{"--cert", &cert}, {"--key", &key}, {"--cipher", &terms.cipher}, {"--group", &terms.group}};
    int at = 1;
    for (; at + 1 < argc && !strncmp(argv[at], "--", 2); at += 2)
        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            if (!strcmp(argv[at], known[i].name))
                *known[i].to = argv[at + 1];
    if (!cert != !key)
        die("--cert and --key go together");
    if (cert)
        tls = tls_server(cert, key, &terms);
    return at;
}

int main(int argc, char **argv)
{
    int first = options(argc, argv);
    if (argc <= first || argc > first + LISTENERS)
        die("usage: backend [--cert PEM --key PEM] HOST:PORT|unix:PATH|tls:HOST:PORT …");
    signal(SIGPIPE, SIG_IGN); /* libssl writes without MSG_NOSIGNAL */
    raise_descriptors();
    int ep = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event evs[EVENTS];
    if (ep < 0)
        die("epoll");
    for (int i = first; i < argc; i++)
        listen_at(argv[i], &listeners[i - first], ep);
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
            if (serve(c) < 0 || evs[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
                drop(c);
        }
    }
}
