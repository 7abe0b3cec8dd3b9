/* relay: the practical limit for a proxy on epoll and TCP, to measure gateways against.
 *
 *     relay 127.0.0.1:8080 127.0.0.1:9000
 *
 * It does what any proxy of kept-alive connections must do in the kernel, and as good as nothing
 * in user space: it finds where messages end (an empty line, a Content-Length), borrows an
 * upstream connection from a last-in-first-out pool for each request, and passes bytes on as they
 * came. No parsing, no header is looked at or set, nothing is checked, nothing times out.
 *
 *     client ──recv──▶ request buffer ──send──▶ upstream
 *     client ◀──send── response buffer ◀──recv── upstream        4 data system calls a request
 *
 * One thread, one epoll set, everything registered once for both directions, edge-triggered; a
 * short read ends reading without the extra call that would say EAGAIN. A reader that is slower
 * than the sender stops the sender: a buffer is refilled only when it has been written out.
 */
#include <sys/epoll.h>

#include "net.h"

enum { BUF = 65536, EVENTS = 256 };

/* One direction of an exchange. Bytes [off, len) of buf wait to be written. */
struct flow {
    size_t off, len;
    long long left;  /* of the message, after what is in buf; -1: its head is not complete */
    char *buf;
};

struct end {
    int fd;
    int upstream;       /* which kind */
    struct end *peer;   /* the other end while an exchange is on */
    struct end *next;   /* in the pool, or on the list of the dead */
    int readable;       /* client: bytes came while an exchange was on */
    int dead;
    struct flow request, response; /* client ends only */
};

static int ep;
static struct end *pool, *graveyard;
static struct address upstream_address;

static struct end *end_new(int fd, int upstream)
{
    struct end *e = calloc(1, sizeof *e);
    if (!e || (!upstream && (!(e->request.buf = malloc(BUF)) || !(e->response.buf = malloc(BUF)))))
        die("malloc");
    e->fd = fd;
    e->upstream = upstream;
    e->request.left = e->response.left = -1;
    struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = e};
    if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev))
        die("epoll_ctl");
    return e;
}

/* Closed at once, freed after the batch of events that may still name it. */
static void end_close(struct end *e)
{
    if (e->dead)
        return;
    e->dead = 1;
    close(e->fd);
    if (e->upstream)
        for (struct end **p = &pool; *p; p = &(*p)->next)
            if (*p == e) {
                *p = e->next;
                break;
            }
    if (e->peer) {
        struct end *peer = e->peer;
        e->peer = peer->peer = NULL;
        end_close(peer);
    }
    e->next = graveyard;
    graveyard = e;
}

static struct end *upstream_take(void)
{
    struct end *u = pool;
    if (u) {
        pool = u->next;
        u->next = NULL;
        return u;
    }
    int fd = socket(upstream_address.sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&upstream_address.sa, upstream_address.len)) {
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    fcntl(fd, F_SETFL, O_NONBLOCK);
    no_delay(fd, &upstream_address);
    return end_new(fd, 1);
}

/* Writes out. 1: the buffer is empty; 0: the socket is full; -1: gone. */
static int flow_write(struct flow *f, int fd)
{
    while (f->off < f->len) {
        ssize_t n = send(fd, f->buf + f->off, f->len - f->off, MSG_NOSIGNAL);
        if (n < 0)
            return errno == EAGAIN ? 0 : -1;
        f->off += (size_t)n;
    }
    f->off = f->len = 0;
    return 1;
}

/* Counts n bytes just appended to the message. 1: its head is complete; 0: not yet. */
static int flow_count(struct flow *f, size_t n)
{
    if (f->left >= 0) {
        f->left -= (long long)n;
        return 1;
    }
    const char *end = memmem(f->buf, f->len, "\r\n\r\n", 4);
    if (!end)
        return 0;
    size_t head = (size_t)(end - f->buf) + 4;
    long long body = f->buf[0] == 'G' ? 0 : content_length(f->buf, head);
    f->left = (body > 0 ? body : 0) - (long long)(f->len - head);
    return 1;
}

static void request_pump(struct end *c);

/* Reads the response on, and passes it to the client. */
static void response_pump(struct end *c)
{
    struct flow *f = &c->response;
    for (;;) {
        int rc = flow_write(f, c->fd);
        if (rc < 0)
            end_close(c);
        if (rc <= 0)
            return;
        if (f->left == 0) {                 /* the exchange is over */
            struct end *u = c->peer;
            if (c->request.left || c->request.off < c->request.len) {
                end_close(c);               /* answered before it was asked: not spoken here */
                return;
            }
            c->peer = u->peer = NULL;
            u->next = pool;
            pool = u;
            c->request.left = f->left = -1;
            if (c->readable)
                request_pump(c);
            return;
        }
        size_t room = BUF - f->len;
        ssize_t n = recv(c->peer->fd, f->buf + f->len, room, 0);
        if (n <= 0) {
            if (n == 0 || errno != EAGAIN)
                end_close(c);
            return;
        }
        f->len += (size_t)n;
        if (!flow_count(f, (size_t)n)) {
            if (f->len == BUF)
                end_close(c);
            return;
        }
        if ((size_t)n < room && f->left > 0) {      /* short: nothing more is there now */
            if (flow_write(f, c->fd) < 0)
                end_close(c);
            return;
        }
    }
}

/* Reads the request on, and passes it upstream. */
static void request_pump(struct end *c)
{
    struct flow *f = &c->request;
    c->readable = 0;
    for (;;) {
        if (c->peer) {
            int rc = flow_write(f, c->peer->fd);
            if (rc < 0)
                end_close(c);
            if (rc <= 0)
                return;
            if (f->left == 0) {
                c->readable = 1;            /* what comes now is the next request */
                return;
            }
        }
        size_t room = BUF - f->len;
        ssize_t n = recv(c->fd, f->buf + f->len, room, 0);
        if (n <= 0) {
            if (n == 0 || errno != EAGAIN)
                end_close(c);
            return;
        }
        f->len += (size_t)n;
        if (!flow_count(f, (size_t)n)) {
            if (f->len == BUF)
                end_close(c);
            return;
        }
        if (f->left < 0) {                  /* pipelined: not spoken here */
            end_close(c);
            return;
        }
        if (!c->peer) {
            struct end *u = upstream_take();
            if (!u) {
                end_close(c);
                return;
            }
            c->peer = u;
            u->peer = c;
        }
        if ((size_t)n < room || f->left == 0) {
            if (flow_write(f, c->peer->fd) < 0)
                end_close(c);
            return;
        }
    }
}

static void on_event(struct end *e, uint32_t events)
{
    struct end *c = e->upstream ? e->peer : e;
    if (events & (EPOLLHUP | EPOLLERR) || (!c && events & EPOLLRDHUP)) {
        end_close(e);
        return;
    }
    if (!c)
        return;                             /* a pooled upstream became writable */
    if (e->upstream) {
        if (events & EPOLLOUT && c->request.off < c->request.len)
            request_pump(c);
        if (!c->dead && c->peer && events & (EPOLLIN | EPOLLRDHUP))
            response_pump(c);
        return;
    }
    if (events & EPOLLOUT && c->response.off < c->response.len)
        response_pump(c);
    if (!c->dead && events & (EPOLLIN | EPOLLRDHUP)) {
        if (c->peer && c->request.left == 0)
            c->readable = 1;
        else
            request_pump(c);
    }
    if (!c->dead && events & EPOLLRDHUP)
        end_close(c);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        die("usage: relay LISTEN UPSTREAM");
    struct address a = parse_address(argv[1]);
    upstream_address = parse_address(argv[2]);
    raise_descriptors();
    int listener = listen_on(&a);
    ep = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL}, evs[EVENTS];
    if (ep < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, listener, &ev))
        die("epoll");
    for (;;) {
        int n = epoll_wait(ep, evs, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            struct end *e = evs[i].data.ptr;
            if (e) {
                if (!e->dead)
                    on_event(e, evs[i].events);
                continue;
            }
            int fd;
            while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
                no_delay(fd, &a);
                end_new(fd, 0);
            }
        }
        while (graveyard) {
            struct end *e = graveyard;
            graveyard = e->next;
            free(e->request.buf);
            free(e->response.buf);
            free(e);
        }
    }
}
