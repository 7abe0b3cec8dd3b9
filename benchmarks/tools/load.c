/* load: an HTTP/1.1 load generator that does not lie about latency.
 *
 *     load --target 127.0.0.1:8080 --connections 64 --duration 3 [--rate 20000] …
 *
 * Two modes:
 *
 *   closed loop  every connection sends its next request when the answer to the last is complete.
 *                Finds the saturation throughput. Its latencies are those of a saturated system.
 *   open loop    (--rate R) request i is due at start + i / R, whatever happened to those before.
 *                Its latency runs from the moment it was DUE, not from when a free connection was
 *                found for it: a stall of the server is paid for by every request that was due
 *                during it (no coordinated omission). What is due and not answered when the run
 *                ends is recorded with the age it has by then, so a server that cannot keep up
 *                cannot hide it.
 *
 * One thread, one epoll set; --spin polls without sleeping (for a core of its own), so that waking
 * up does not count as latency. A run is warm-up, then the measured window; the line "measuring" is
 * printed when the window opens and "measured" when it closes, for a program that samples the server's
 * processor time in step with it. The last line is the result, one JSON object: outcome.h.
 *
 * --tls speaks TLS, verified (--tls-ca FILE --tls-name NAME) or not (--tls-insecure). --tls-version,
 * --tls-cipher and --tls-group leave one choice, so that all servers agree on the same. With --close each
 * request has a handshake of its own: a full one, or with --tls-resume one that offers the last session
 * of its connection. A request's latency then contains the handshake. Without --close, and with --tls-resume,
 * the window does not open before each connection has had its first handshake.
 *
 * --hold is for measuring memory: open the connections, send one request on each, print "held",
 * stay until stdin ends.
 *
 * Responses must carry Content-Length (or be 204/304): the backends and proxies measured here all
 * do. Chunked answers are counted as protocol errors, so they cannot pass unseen.
 */
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>

#include "outcome.h"
#include "requests.h"

enum { CARRY = 8192, READ = 262144, EVENTS = 512 };
enum { RAMP_NS = 50000, HOLD_RAMP_NS = 200000, TLS_HOLD_RAMP_NS = 2000000, RETRY_NS = 10000000, HOLD_BUSY = 8 };
enum state { CLOSED, CONNECTING, SHAKING, SENDING, IDLE, LEAVING };

struct conn {
    int fd;
    enum state state;
    const struct request *request; /* on its way, or NULL */
    size_t sent;
    uint64_t due;                  /* what its latency counts from */
    uint64_t started;              /* when it was put on this connection: for the time-out */
    long long body;                /* bytes of the response still to come; -1: the head is not complete */
    int status, close_after, answered, shaken;
    struct conn *next;             /* in the queue of the free, or of those that wait to reconnect */
    struct secure tls;
    uint32_t carried;
    char carry[CARRY];             /* a head that came in pieces */
};

static struct address target;
static struct requests requests;
static struct conn *conns;
static struct conn *free_head, *free_tail, *retry_head, *retry_tail;
static uint32_t nconns = 1, nheld, nshaken;
static int ep, open_loop, close_each, hold, spin;
static double duration = 3, warmup = 1, rate, timeout_s = 5;
static uint64_t count_limit, started_total;
static char *buffer;

static uint64_t t_open, t_shut; /* the measured window; t_open 0: not yet known */

/* ---- queues -------------------------------------------------------------------------------- */

static void push(struct conn **head, struct conn **tail, struct conn *c)
{
    c->next = NULL;
    if (*head)
        (*tail)->next = c;
    else
        *head = c;
    *tail = c;
}

static struct conn *pop(struct conn **head)
{
    struct conn *c = *head;
    if (c)
        *head = c->next;
    return c;
}

/* ---- one connection ------------------------------------------------------------------------ */

static void begin(struct conn *c, uint64_t due, uint64_t now);

static void disconnect(struct conn *c)
{
    tls_drop(&c->tls, c->state == LEAVING);
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    c->state = CLOSED;
    c->carried = 0;
}

/* The connection is free for another request: at once (closed loop), or into the queue. */
static void free_again(struct conn *c, uint64_t now)
{
    c->request = NULL;
    if (hold) {
        nheld += !c->answered;
        c->answered = 1;
    } else if (open_loop) {
        push(&free_head, &free_tail, c);
    } else if (!(t_shut && now >= t_shut)) {
        begin(c, now, now);
    }
}

static void fail(struct conn *c, uint64_t *counter, uint64_t now)
{
    ++*counter;
    disconnect(c);
    c->request = NULL;
    c->started = now; /* a server that is away is not hammered: RETRY_NS of rest */
    push(&retry_head, &retry_tail, c);
}

static void push_out(struct conn *c, uint64_t now)
{
    while (c->sent < c->request->len) {
        const char *p = c->request->bytes + c->sent;
        size_t left = c->request->len - c->sent;
        ssize_t n = c->tls.ssl ? tls_send(c->tls.ssl, p, left) : send(c->fd, p, left, MSG_NOSIGNAL);
        if (n <= 0) {
            /* A refusal may have come before the whole body was sent: read to find out. */
            if (n && errno != EAGAIN && errno != EPIPE && errno != ECONNRESET)
                fail(c, errno == EPROTO ? &tls_errors : &resets, now);
            return;
        }
        c->sent += (size_t)n;
    }
}

static void begin(struct conn *c, uint64_t due, uint64_t now)
{
    if (count_limit && started_total >= count_limit)
        return;
    started_total++;
    c->request = next_of(&requests);
    c->sent = 0;
    c->body = -1;
    c->close_after = 0;
    c->carried = 0;
    c->due = due;
    c->started = now;
    if (c->state != CLOSED) {
        c->state = SENDING;
        push_out(c, now);
        return;
    }
    c->fd = socket(target.sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        die("socket");
    no_delay(c->fd, &target);
    if (connect(c->fd, (struct sockaddr *)&target.sa, target.len) && errno != EINPROGRESS) {
        fail(c, &connect_errors, now);
        return;
    }
    c->state = CONNECTING;
    struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
    if (epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &ev))
        die("epoll_ctl");
}

static int measured(uint64_t when)
{
    return t_open && when >= t_open && when < t_shut;
}

static void complete(struct conn *c, uint64_t now)
{
    responses++;
    statuses[c->status]++;
    in_window += (uint64_t)measured(now);
    uint64_t from = open_loop ? c->due : now;
    if (measured(from))
        histogram_record(&latency, now - c->due);
    if (c->tls.ssl && (c->close_after || close_each)) {
        /* The server closes, with close_notify; to close first would answer that with a reset. */
        c->request = NULL;
        c->state = LEAVING;
        c->started = now;
        return;
    }
    if (c->close_after || close_each)
        disconnect(c);
    else
        c->state = IDLE;
    free_again(c, now);
}

/* Reads the head [0, len). 1: understood; 0: not a response this tool knows. */
static int read_head(struct conn *c, const char *head, size_t len)
{
    if (len < 15 || memcmp(head, "HTTP/1.", 7) || head[9] < '1' || head[9] > '5')
        return 0;
    c->status = (head[9] - '0') * 100 + (head[10] - '0') * 10 + (head[11] - '0');
    if (c->status < 100 || c->status > 599)
        return 0;
    c->body = content_length(head, len);
    if (c->body < 0 && c->status != 204 && c->status != 304)
        return 0;
    if (c->body < 0)
        c->body = 0;
    for (const char *p = head; (p = memchr(p, '\n', (size_t)(head + len - p))) != NULL && p + 20 < head + len;)
        if (!strncasecmp(++p, "connection: close", 17))
            c->close_after = 1;
    return 1;
}

/* Takes n received bytes. 0: go on; -1: the connection was given up. */
static int take(struct conn *c, const char *p, size_t n, uint64_t now)
{
    if (!c->request) { /* bytes that answer nothing; the connection is where it was, in the queue */
        int leaving = c->state == LEAVING;
        protocol_errors++;
        disconnect(c);
        if (leaving)
            free_again(c, now);
        return -1;
    }
    if (c->body < 0) {
        const char *head = p;
        size_t len = n;
        if (c->carried) {
            size_t m = n < CARRY - c->carried ? n : CARRY - c->carried;
            memcpy(c->carry + c->carried, p, m);
            head = c->carry;
            len = c->carried + m;
        }
        const char *end = memmem(head, len, "\r\n\r\n", 4);
        if (!end) {
            if (!c->carried && len <= CARRY)
                memcpy(c->carry, p, len);
            if (len >= CARRY) {
                fail(c, &protocol_errors, now);
                return -1;
            }
            c->carried = (uint32_t)len;
            return 0;
        }
        size_t size = (size_t)(end - head) + 4;
        if (!read_head(c, head, size)) {
            fail(c, &protocol_errors, now);
            return -1;
        }
        n -= size - c->carried;
        c->carried = 0;
    }
    if ((long long)n > c->body) {
        fail(c, &protocol_errors, now);
        return -1;
    }
    c->body -= (long long)n;
    if (c->body == 0)
        complete(c, now);
    return 0;
}

/* The handshake, and once it is complete the request. 0: not yet, or failed. */
static int shake(struct conn *c, uint64_t now)
{
    int rc = tls_shake(&c->tls, measured(now));
    if (rc < 0)
        fail(c, errno == EPROTO ? &tls_errors : &resets, now);
    if (rc <= 0)
        return 0;
    c->state = SENDING;
    push_out(c, now);
    return 1;
}

/* recv said 0, or that the connection is broken. */
static void ended(struct conn *c, ssize_t n, uint64_t now)
{
    if (c->state == LEAVING) {
        disconnect(c);
        free_again(c, now);
    } else if (c->request) {
        fail(c, n < 0 && errno == EPROTO ? &tls_errors : &resets, now);
    } else {
        reconnects++; /* closed between requests: the next one connects again */
        disconnect(c);
    }
}

static void on_event(struct conn *c, uint32_t events, uint64_t now)
{
    if (c->state == CLOSED)
        return;
    if (c->state == CONNECTING) {
        int err = 0;
        socklen_t len = sizeof err;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &len);
        if (err) {
            fail(c, &connect_errors, now);
            return;
        }
        if (!(events & EPOLLOUT))
            return;
        if (tls_context) {
            c->state = SHAKING;
            tls_begin(&c->tls, c->fd);
        } else {
            c->state = SENDING;
            push_out(c, now);
        }
    } else if (events & EPOLLOUT && c->state == SENDING && c->sent < c->request->len) {
        push_out(c, now);
    }
    if (c->state == SHAKING) {
        if (!shake(c, now))
            return;
        nshaken += !c->shaken;
        c->shaken = 1;
    }
    if (!(events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)))
        return;
    int fd = c->fd;
    while (c->fd == fd && c->state > SHAKING) {
        ssize_t n = c->tls.ssl ? tls_take(&c->tls, buffer, READ) : recv(fd, buffer, READ, 0);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            ended(c, n, now);
            return;
        }
        if (take(c, buffer, (size_t)n, now) < 0)
            return;
        if (!c->tls.ssl && n < READ && !(events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)))
            return;
    }
}

/* ---- the run ------------------------------------------------------------------------------- */

static void check_timeouts(uint64_t now)
{
    for (uint32_t i = 0; i < nconns; i++)
        if ((conns[i].request || conns[i].state == LEAVING) && (double)(now - conns[i].started) > timeout_s * 1e9)
            fail(&conns[i], &timeouts, now);
}

static void retry(uint64_t now)
{
    while (retry_head && now - retry_head->started >= RETRY_NS) {
        struct conn *c = pop(&retry_head);
        if (hold)
            begin(c, now, now);
        else
            free_again(c, now);
    }
}

/* Waits so many nanoseconds at most and serves what came; the time afterwards. */
static uint64_t serve_events(uint64_t most)
{
    static struct epoll_event evs[EVENTS];
    struct timespec wait = {0, (long)most};
    int n = epoll_pwait2(ep, evs, EVENTS, &wait, NULL);
    uint64_t now = now_ns();
    for (int i = 0; i < n; i++)
        on_event(evs[i].data.ptr, evs[i].events, now);
    return now;
}

static int busy(void)
{
    for (uint32_t i = 0; i < nconns; i++)
        if (conns[i].request)
            return 1;
    return 0;
}

/* Closed loop: what is on its way when the window shuts is answered too, and counted in `statuses`
   alone, so that they say how many requests the server has served. */
static void drain(void)
{
    uint64_t now = now_ns(), end = now + (uint64_t)(timeout_s * 1e9);
    while (busy() && now < end)
        now = serve_events(10000000);
}

static void announce(const char *what)
{
    puts(what);
    fflush(stdout);
}

/* First handshakes do not belong in a window of requests over kept connections, nor, as full ones, in one of
   resumed handshakes. */
static int greeting(uint64_t now, uint64_t t0)
{
    uint64_t patience = (uint64_t)((warmup + timeout_s) * 1e9);
    return tls_context && (!close_each || tls_options.resume) && !count_limit && !hold && nshaken < nconns && now < t0 + patience;
}

static int finished(uint64_t now)
{
    if (hold || count_limit)
        return hold ? nheld == nconns : finished_requests() >= count_limit;
    return t_shut && now >= t_shut;
}

static void run(void)
{
    uint64_t t0 = now_ns(), now = t0, issued = 0, next_check = t0;
    uint32_t ramped = 0;
    int opened = 0;
    /* Held connections come slowly, and few are ever busy, so that what is measured is idle. */
    uint64_t ramp = !hold ? RAMP_NS : tls_context ? TLS_HOLD_RAMP_NS : HOLD_RAMP_NS;
    double interval = open_loop ? 1e9 / rate : 0;
    uint64_t opens = t0 + (uint64_t)(warmup * 1e9);
    t_open = opens;
    t_shut = count_limit || hold ? UINT64_MAX : t_open + (uint64_t)(duration * 1e9);

    while (!finished(now)) {
        if (!opened && greeting(now, t0)) {
            t_open = t_shut = UINT64_MAX;
        } else if (t_open == UINT64_MAX) {
            t_open = now > opens ? now : opens;
            t_shut = t_open + (uint64_t)(duration * 1e9);
        }
        if (!opened && now >= t_open) {
            opened = 1;
            announce("measuring");
        }
        uint64_t wake = next_check;
        while (ramped < nconns && t0 + ramped * ramp <= now && !(hold && ramped - nheld >= HOLD_BUSY)) {
            struct conn *c = &conns[ramped++];
            if (open_loop)
                push(&free_head, &free_tail, c);
            else
                begin(c, now, now);
        }
        if (ramped < nconns && t0 + ramped * ramp > now && t0 + ramped * ramp < wake)
            wake = t0 + ramped * ramp;
        if (open_loop) {
            while (free_head && (!count_limit || issued < count_limit)) {
                uint64_t due = t0 + (uint64_t)((double)issued * interval);
                if (due > now || due >= t_shut) {
                    if (due < wake)
                        wake = due;
                    break;
                }
                issued++;
                begin(pop(&free_head), due, now);
            }
        }
        if (now >= next_check) {
            check_timeouts(now);
            next_check = now + 10000000;
        }
        if (retry_head)
            retry(now);
        now = serve_events(!spin && wake > now ? wake - now : 0);
    }
    announce(hold ? "held" : "measured");

    if (!open_loop && !count_limit && !hold)
        drain();
    if (open_loop && !count_limit) {
        /* What was due has until the time-out to be answered; what is not has that age at least. */
        uint64_t end = t_shut + (uint64_t)(timeout_s * 1e9);
        for (;;) {
            uint64_t due = t0 + (uint64_t)((double)issued * interval);
            int more = due < t_shut;
            while (free_head && due < t_shut) {
                issued++;
                begin(pop(&free_head), due, now);
                due = t0 + (uint64_t)((double)issued * interval);
            }
            if (!(more || busy()) || now >= end)
                break;
            now = serve_events(10000000);
            if (retry_head)
                retry(now);
        }
        for (uint32_t i = 0; i < nconns; i++)
            if (conns[i].request && conns[i].due >= t_open && conns[i].due < t_shut) {
                unanswered++;
                histogram_record(&latency, now - conns[i].due);
            }
        for (;; issued++) {
            uint64_t due = t0 + (uint64_t)((double)issued * interval);
            if (due >= t_shut)
                break;
            if (due >= t_open) {
                unanswered++;
                histogram_record(&latency, now - due);
            }
        }
    }
    if (hold) {
        struct pollfd in = {.fd = 0, .events = POLLIN};
        char c;
        while (poll(&in, 1, -1) < 0 || read(0, &c, 1) > 0)
            ;
        /* a connection that was closed shows as readable with nothing to read */
        for (uint32_t i = 0; i < nconns; i++) {
            if (conns[i].fd < 0)
                continue;
            SSL *ssl = conns[i].tls.ssl;
            reconnects += (ssl ? tls_recv(ssl, &c, 1) : recv(conns[i].fd, &c, 1, MSG_DONTWAIT)) == 0;
        }
    }
    double window = count_limit || hold ? (double)(now - t_open) / 1e9 : duration;
    if (count_limit)
        in_window = responses;
    print_outcome(hold ? "hold" : open_loop ? "open" : "closed", nconns, rate, window);
}

static const struct option options[] = {
    {"target", required_argument, NULL, 't'},   {"connections", required_argument, NULL, 'c'},
    {"duration", required_argument, NULL, 'd'}, {"warmup", required_argument, NULL, 'w'},
    {"rate", required_argument, NULL, 'r'},     {"count", required_argument, NULL, 'n'},
    {"path", required_argument, NULL, 'p'},     {"header", required_argument, NULL, 'H'},
    {"requests", required_argument, NULL, 'f'}, {"body", required_argument, NULL, 'b'},
    {"timeout", required_argument, NULL, 'T'},  {"close", no_argument, NULL, 'C'},
    {"hold", no_argument, NULL, 'h'},           {"spin", no_argument, NULL, 's'},
    {"histogram", no_argument, NULL, 'x'},      {"tls", no_argument, &tls_options.wanted, 1},
    {"tls-ca", required_argument, NULL, 'A'},   {"tls-insecure", no_argument, &tls_options.insecure, 1},
    {"tls-name", required_argument, NULL, 'N'}, {"tls-resume", no_argument, &tls_options.resume, 1},
    {"tls-version", required_argument, NULL, 'V'}, {"tls-cipher", required_argument, NULL, 'S'},
    {"tls-group", required_argument, NULL, 'G'}, {NULL, 0, NULL, 0},
};

int main(int argc, char **argv)
{
    const char *path = "/bytes/100", *file = NULL;
    char headers[16384] = "";
    size_t body = 0, used = 0;
    int o, have_target = 0;
    while ((o = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (o) {
        case 0: break; /* a flag of TLS */
        case 'A': tls_options.ca = optarg; break;
        case 'N': tls_options.name = optarg; break;
        case 'V': tls_options.terms.version = optarg; break;
        case 'S': tls_options.terms.cipher = optarg; break;
        case 'G': tls_options.terms.group = optarg; break;
        case 't': target = parse_address(optarg); have_target = 1; break;
        case 'c': nconns = (uint32_t)atoi(optarg); break;
        case 'd': duration = atof(optarg); break;
        case 'w': warmup = atof(optarg); break;
        case 'r': rate = atof(optarg); open_loop = rate > 0; break;
        case 'n': count_limit = strtoull(optarg, NULL, 10); warmup = 0; break;
        case 'p': path = optarg; break;
        case 'f': file = optarg; break;
        case 'b': body = strtoull(optarg, NULL, 10); break;
        case 'T': timeout_s = atof(optarg); break;
        case 'C': close_each = 1; break;
        case 'h': hold = 1; warmup = 0; break;
        case 's': spin = 1; break;
        case 'x': return histogram_of_stdin(&latency);
        case 'H': {
            int n = snprintf(headers + used, sizeof headers - used, "%s\r\n", optarg);
            if (n < 0 || (used += (size_t)n) >= sizeof headers)
                die("--header");
            break;
        }
        default: return 2;
        }
    }
    if (!have_target || !nconns || nconns > 100000 || duration <= 0 || warmup < 0 || timeout_s <= 0)
        die("usage: load --target HOST:PORT [--connections N] [--duration S] [--rate R] …");
    if (close_each)
        strncat(headers, "Connection: close\r\n", sizeof headers - used - 1);
    if (file)
        read_requests(&requests, file, headers, body);
    else
        add_request(&requests, path, headers, NULL, body);
    if (!requests.count)
        die("--requests");
    if (tls_options.wanted)
        tls_prepare(hold);
    signal(SIGPIPE, SIG_IGN); /* libssl writes without MSG_NOSIGNAL */
    raise_descriptors();
    prctl(PR_SET_TIMERSLACK, 1);
    ep = epoll_create1(EPOLL_CLOEXEC);
    buffer = malloc(READ);
    conns = calloc(nconns, sizeof *conns);
    if (ep < 0 || !buffer || !conns) die("start");
    for (uint32_t i = 0; i < nconns; i++) conns[i].fd = -1;
    run();
    return 0;
}
