/* hello: a flood of handshakes that nobody means to finish.
 *
 *     hello --target 127.0.0.1:8443 --connections 300 --duration 5 [--half 100] [--name NAME]
 *
 * Each connection sends a ClientHello, waits for the first octets of the answer, by which the server has
 * used its private key, resets the connection and starts over: a closed loop. With --half N, N of the
 * connections send half of it and wait until the server gives them up. The ClientHello is made once, so a
 * flood costs this side next to nothing. Prints "flooding" when all connections have begun, and at the
 * end, one JSON object:
 *
 *   sent       whole ClientHellos
 *   answered   of those, how many got an answer
 *   refused    connections that could not be made, or ended before an answer
 *   given_up   halves that the server closed
 *   held       halves that were open at the end
 */
#include <getopt.h>
#include <sys/epoll.h>

#include "tls.h"

enum { EVENTS = 512, MOST = 10000, HANDSHAKE = 22 };

struct conn {
    int fd, half;
};

static struct address target;
static struct conn conns[MOST];
static unsigned long long sent, answered, refused, given_up;
static char hello[4096];
static size_t hello_len;
static int ep;

static void make_hello(const char *name, const struct tls_terms *terms)
{
    SSL *ssl = SSL_new(tls_client(NULL, terms));
    BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
    tls_must(ssl && in && out, "TLS");
    SSL_set_bio(ssl, in, out);
    SSL_set_connect_state(ssl);
    if (name)
        tls_must(SSL_set_tlsext_host_name(ssl, name) == 1, "--name");
    SSL_do_handshake(ssl);
    int n = BIO_read(out, hello, sizeof hello);
    tls_must(n > 5, "the ClientHello");
    hello_len = (size_t)n;
    SSL_free(ssl);
}

/* Connected or not: once it is, it can be written to. */
static void start(struct conn *c)
{
    c->fd = socket(target.sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        die("socket");
    struct linger reset = {1, 0}; /* no port is to wait for late segments */
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    no_delay(c->fd, &target);
    connect(c->fd, (struct sockaddr *)&target.sa, target.len);
    struct epoll_event ev = {.events = EPOLLOUT, .data.ptr = c};
    if (epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &ev))
        die("epoll_ctl");
}

static void over(struct conn *c, unsigned long long *counter)
{
    ++*counter;
    close(c->fd);
    start(c);
}

static void on_event(struct conn *c, uint32_t events)
{
    char octets[4096];
    if (events & EPOLLOUT) {
        size_t n = c->half ? hello_len / 2 : hello_len;
        struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};
        if (send(c->fd, hello, n, MSG_NOSIGNAL) != (ssize_t)n) {
            over(c, &refused);
            return;
        }
        sent += !c->half;
        epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &ev);
        return;
    }
    ssize_t n = recv(c->fd, octets, sizeof octets, 0);
    if (n < 0 && errno == EAGAIN)
        return;
    over(c, c->half ? &given_up : n > 0 && octets[0] == HANDSHAKE ? &answered : &refused);
}

static void flood(uint32_t count, uint32_t half, double seconds)
{
    static struct epoll_event evs[EVENTS];
    for (uint32_t i = 0; i < count; i++) {
        conns[i].half = i < half;
        start(&conns[i]);
    }
    puts("flooding");
    fflush(stdout);
    uint64_t end = now_ns() + (uint64_t)(seconds * 1e9);
    while (now_ns() < end) {
        int n = epoll_wait(ep, evs, EVENTS, 10);
        for (int i = 0; i < n; i++)
            on_event(evs[i].data.ptr, evs[i].events);
    }
    printf("{\"version\": 1, \"sent\": %llu, \"answered\": %llu, \"refused\": %llu, \"given_up\": %llu, "
           "\"held\": %u}\n", sent, answered, refused, given_up, half);
}

static const struct option known[] = {
    {"target", required_argument, NULL, 't'},  {"connections", required_argument, NULL, 'c'},
    {"half", required_argument, NULL, 'h'},    {"duration", required_argument, NULL, 'd'},
    {"name", required_argument, NULL, 'n'},    {"version", required_argument, NULL, 'V'},
    {"group", required_argument, NULL, 'G'},   {NULL, 0, NULL, 0},
};

int main(int argc, char **argv)
{
    struct tls_terms terms = {0};
    const char *name = NULL;
    uint32_t count = 300, half = 0;
    double seconds = 3;
    int o, have_target = 0;
    while ((o = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (o) {
        case 't': target = parse_address(optarg); have_target = 1; break;
        case 'c': count = (uint32_t)atoi(optarg); break;
        case 'h': half = (uint32_t)atoi(optarg); break;
        case 'd': seconds = atof(optarg); break;
        case 'n': name = optarg; break;
        case 'V': terms.version = optarg; break;
        case 'G': terms.group = optarg; break;
        default: return 2;
        }
    }
    if (!have_target || !count || count > MOST || half > count || seconds <= 0 || seconds > 600)
        die("usage: hello --target HOST:PORT [--connections N] [--half N] [--duration S] [--name NAME]");
    raise_descriptors();
    make_hello(name, &terms);
    ep = epoll_create1(EPOLL_CLOEXEC);
    if (ep < 0)
        die("epoll");
    flood(count, half, seconds);
    return 0;
}
