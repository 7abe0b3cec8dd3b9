/* The ends of connections that the fuzzer of connections works: clients and upstreams' peers.

   `fuzz_connections.py` says what they do, compiles this file and calls it in turn with the engine:

       fz_begin(epoch)         so many connections, at most so many at a time, from this seed
       fz_round()              some steps; what Python is to do now, or FZ_DONE, FZ_FAILED
       fz_leave(kind or all)   the ends close or reset what they have
       fz_report()             after a failure: what the clients sent and what was done last

   A step is one thing done by one end: a piece sent, a little read, a half-close, a close, a reset, a
   pause. All chance comes from the epoch's seed. Pauses are counted in steps, so that the seed brings the
   same run back, but for epochs whose timeouts are short: there they are up to 4 ms of real time. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "fuzz_bytes.h"

enum { ENDS = 1024, ASKS = 9, DONE_LAST = 256, STUCK = 40000, NUMBERS = 100000 };
#define STUCK_NS 5000000000u /* TCP sends a lost segment again only after 200 ms, and then after 400 */
enum { WILD_CLIENT, TAME_CLIENT, WILD_PEER, TAME_PEER, KINDS };
enum { FZ_TURN = 1, FZ_RELOAD = 2, FZ_SLEEP = 4, FZ_DONE = 8, FZ_FAILED = 16 };
enum { ASK_GET, ASK_LENGTH, ASK_CHUNKED, ASK_EXPECT, ASK_ECHO, ASK_KINDS, ASK_TUNNEL };

typedef struct { int how, number, size; } ask;
typedef struct {
    int fd, kind, tcp, over, halved, calm, slow, echoes, closes;
    uint32_t number;
    uint64_t wake;
    bytes out, in;
    ask asks[ASKS];
    int n_asks, answered;
    char first[13];
    int n_first;
} end;


/* What Python sets: see Setup and Epoch there. */
typedef struct { int wild, wild_tcp, tame; const char *web; int web_port; } setup;
typedef struct { uint64_t seed; int connections, actors, hasty; } epoch;

static const char *const NAMES[KINDS] = {"wild client", "tame client", "wild peer", "tame peer"};
static setup place;
static epoch now;
static end *ends[ENDS];
static int n_ends, left, silent;
static uint32_t numbers[2];
static uint64_t steps, moved, moved_ns, clock_ns;   /* moved: the step in which something came or went */
static uint64_t seen[KINDS], answers[6];
static char failure[200];
static end *failed;
static struct { uint32_t number; int kind; const char *what; long size; } last[DONE_LAST];
static uint64_t n_last;

/* ---- what an end can do ------------------------------------------------------------------- */

static void progress(void) {
    moved = steps;
    moved_ns = clock_ns;
}

static void did(end *e, const char *what, long size) {
    unsigned i = n_last++ % DONE_LAST;
    last[i].number = e->number;
    last[i].kind = e->kind;
    last[i].what = what;
    last[i].size = size;
}

static void fail(end *e, const char *why) {
    if (*failure) return;
    failed = e;
    snprintf(failure, sizeof failure, "%s %u: %s", NAMES[e->kind], e->number, why);
}

static void shut(end *e) {
    if (e->over) return;
    e->over = 1;
    did(e, "closed", 0);
    close(e->fd);
    if (e->kind == TAME_CLIENT && e->answered < e->n_asks) fail(e, "its connection ended before its answers");
}

static void reset(end *e) {
    struct linger how = {1, 0};
    if (e->tcp) setsockopt(e->fd, SOL_SOCKET, SO_LINGER, &how, sizeof how);
    did(e, "resets", 0);
    shut(e);
}

static void half_close(end *e) {
    did(e, "half-closes", 0);
    e->halved = 1;
    shutdown(e->fd, SHUT_WR);
}

static void rest(end *e) {
    e->wake = now.hasty ? clock_ns + below(4000000) : steps + below(8000);
    did(e, "pauses", 0);
}

static void push(end *e) {
    static const size_t sizes[] = {1, 2, 7, 100, 1000, 16344, 70000, 1u << 30};
    size_t size = sizes[below(8)], n = e->out.n - e->out.at;
    if (!n || e->halved) return;
    ssize_t sent = send(e->fd, e->out.p + e->out.at, size < n ? size : n, MSG_NOSIGNAL);
    did(e, "sends", sent);
    if (sent > 0) {
        e->out.at += (size_t)sent;
        progress();
    } else if (errno != EAGAIN) {
        shut(e);
    }
    if (e->kind >= WILD_PEER && e->out.at == e->out.n) clear(&e->out);
}

/* What came, at most `size`; NULL: nothing. An end is told to `ended`. */
static const char *pull(end *e, size_t size, ssize_t *got, int *ended) {
    static char data[100000];
    *ended = 0;
    *got = recv(e->fd, data, size, 0);
    if (*got > 0) {
        did(e, "receives", *got);
        progress();
        return data;
    }
    if (*got == 0) *ended = 1;
    else if (errno != EAGAIN) shut(e);
    return NULL;
}

/* ---- wild ones ---------------------------------------------------------------------------- */

static void wild_script(end *e) {
    static const int requests[] = {1, 1, 2, 3, 5};
    for (int i = requests[below(5)]; i > 0; i--) {
        size_t from = e->out.n;
        text t = picked(CORPUS_REQUESTS);
        put(&e->out, t.p, t.n);
        if (chance(400)) mutate(&e->out, from, picked(CORPUS_REQUESTS));
    }
    e->calm = chance(500);
    e->slow = chance(150) ? 1 + (int)below(2) : 0;
}

static void wild_client(end *e) {
    static const size_t sizes[] = {1, 100, 100000};
    static const char *const more[] = {"x", "\r\n", "GET /ok HTTP/1.1\r\nHost: a\r\n\r\n"};
    size_t kind = silent ? 8 : below(17);
    ssize_t got;
    int ended;
    if (kind < 8) {
        push(e);
    } else if (kind < 12) {
        if (e->slow == 2) return;                               /* it never reads */
        const char *p = pull(e, e->slow ? 1 + below(100) : sizes[below(3)], &got, &ended);
        for (ssize_t i = 0; p && i < got && e->n_first < 12; i++) e->first[e->n_first++] = p[i];
        if (ended) shut(e);
    } else if (kind == 12 && chance(e->calm ? 50 : 300)) {
        half_close(e);
    } else if (kind == 13 && chance(e->calm ? 10 : 400)) {
        reset(e);
    } else if (kind == 14 && e->out.at == e->out.n && chance(e->calm ? 300 : 1000)) {
        if (chance(500)) shut(e);
        else {
            const char *text = more[below(3)];
            put(&e->out, text, strlen(text));
        }
    } else if (kind == 15 && chance(300)) {
        rest(e);
    }
}

static void wild_peer(end *e) {
    static const size_t sizes[] = {10, 1000, 100000};
    size_t kind = silent ? 16 : below(17);
    ssize_t got;
    int ended;
    if (kind < 6) {
        push(e);
    } else if (kind < 11) {
        const char *p = pull(e, sizes[below(3)], &got, &ended);
        if (p && !e->out.n) {
            text t = picked(CORPUS_ANSWERS);
            put(&e->out, t.p, t.n);
            if (chance(300)) mutate(&e->out, 0, picked(CORPUS_ANSWERS));
        }
        if (ended && !e->out.n) shut(e);
    } else if (kind == 11 && chance(150)) {
        half_close(e);
    } else if (kind == 12 && chance(150)) {
        reset(e);
    } else if (kind == 13 && chance(e->out.n ? 50 : 300)) {
        shut(e);
    } else if (kind == 14 && chance(50)) {
        text t = picked(CORPUS_ANSWERS);                        /* unasked */
        put(&e->out, t.p, t.n);
    } else if (kind == 15 && chance(300)) {
        rest(e);
    }
}

/* ---- tame ones: every octet is known beforehand --------------------------------------------- */

static size_t body_of(int number, char *to) {
    char piece[16];
    size_t n = (size_t)snprintf(piece, sizeof piece, "%d,", number), times = (size_t)number % 3000;
    for (size_t i = 0; i < times; i++) memcpy(to + i * n, piece, n);
    return n * times;
}

static int letter_of(int number) { return 'a' + number % 26; }

static void tame_script(end *e) {
    static const int asked[] = {1, 2, 4, 9}, sizes[] = {0, 0, 3, 3000, 40000};
    char body[40000];
    e->n_asks = chance(100) ? 1 : asked[below(4)];
    int tunnel = e->n_asks == 1 && chance(300);
    for (int i = 0; i < e->n_asks; i++) {
        ask *a = &e->asks[i];
        a->number = (int)below(NUMBERS);
        a->size = sizes[below(5)];
        a->how = tunnel ? ASK_TUNNEL : a->size ? 1 + (int)below(ASK_KINDS - 1) : ASK_GET;
        memset(body, letter_of(a->number), (size_t)a->size);
        const char *place_of = a->how == ASK_TUNNEL ? "tunnel" : a->how == ASK_ECHO ? "echo" : "tame";
        const char *method = a->how == ASK_GET || a->how == ASK_TUNNEL ? "GET" : "POST";
        putf(&e->out, "%s /%s/%d/%d HTTP/1.1\r\nHost: a\r\n", method, place_of, a->number, a->size);
        if (a->how == ASK_TUNNEL) putf(&e->out, "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        else if (a->how == ASK_GET) putf(&e->out, "\r\n");
        else if (a->how == ASK_CHUNKED) {
            putf(&e->out, "Transfer-Encoding: chunked\r\n\r\n%x\r\n", a->size);
            put(&e->out, body, (size_t)a->size);
            putf(&e->out, "\r\n0\r\n\r\n");
        } else {
            if (a->how == ASK_EXPECT) putf(&e->out, "Expect: 100-continue\r\n");
            putf(&e->out, "Content-Length: %d\r\n\r\n", a->size);
            put(&e->out, body, (size_t)a->size);
        }
    }
}

/* Whether a head has this field with this value, both in lower case; its number if `value` is NULL, or -1. */
static long field(const char *head, size_t n, const char *name, const char *value) {
    char line[80];
    snprintf(line, sizeof line, "\r\n%s: %s", name, value ? value : "");
    size_t size = strlen(line);
    for (size_t i = 0; i + size <= n; i++)
        if (head[i] == '\r' && !strncasecmp(head + i, line, size))
            return value ? 1 : strtol(head + i + size, NULL, 10);
    return value ? 0 : -1;
}

/* A message's body into `body`, its size on the wire; 0: it is not whole yet; -1: it is none. */
static long unwrapped(const char *p, size_t n, bytes *body, size_t *head) {
    const char *stop = n < 4 ? NULL : memmem(p, n, "\r\n\r\n", 4);
    clear(body);
    if (!stop) return 0;
    size_t at = *head = (size_t)(stop + 4 - p);
    if (field(p, at, "transfer-encoding", "chunked")) {
        for (;;) {
            const char *line = memmem(p + at, n - at, "\r\n", 2);
            if (!line) return 0;
            char *after;
            size_t size = strtoul(p + at, &after, 16);
            if (after != line || after == p + at) return -1;
            at = (size_t)(line + 2 - p);
            if (n - at < size + 2) return 0;
            put(body, p + at, size);
            if (memcmp(p + at + size, "\r\n", 2) != 0) return -1;
            at += size + 2;
            if (!size) return (long)at;
        }
    }
    long size = field(p, at, "content-length", NULL);
    if (size < 0) size = 0;
    if (n - at < (size_t)size) return 0;
    put(body, p + at, (size_t)size);
    return (long)at + size;
}

static int all_of(const bytes *b, int letter, size_t size) {
    if (b->n != size) return 0;
    for (size_t i = 0; i < size; i++) if (b->p[i] != letter) return 0;
    return 1;
}

/* What a tame client has got so far is a beginning of what it must get. */
static void check(end *e) {
    static bytes body;
    static char expected[3000 * 8];
    while (e->answered < e->n_asks && !*failure) {
        ask *a = &e->asks[e->answered];
        const char *p = e->in.p + e->in.at;
        size_t n = e->in.n - e->in.at, head;
        if (e->echoes) {                                        /* a tunnel that stands */
            if (n < (size_t)a->size) return;
            clear(&body);
            put(&body, p, n);
            if (!all_of(&body, letter_of(a->number), (size_t)a->size)) return fail(e, "a wrong echo");
            e->answered++;
            e->in.at = e->in.n;
            break;
        }
        long size = unwrapped(p, n, &body, &head);
        if (size < 0) return fail(e, "an answer that is none");
        if (size == 0) return;
        e->in.at += (size_t)size;
        if (!strncmp(p, "HTTP/1.1 1", 10) && a->how != ASK_TUNNEL) continue;
        if (a->how == ASK_TUNNEL) {
            if (strncmp(p, "HTTP/1.1 101 ", 13) != 0) return fail(e, "a tunnel refused");
            char frames[40000];
            memset(frames, letter_of(a->number), (size_t)a->size);
            put(&e->out, frames, (size_t)a->size);
            e->echoes = 1;
            continue;
        }
        if (strncmp(p, "HTTP/1.1 200 ", 13) != 0) return fail(e, "an answer that is not 200");
        if (a->how == ASK_ECHO) {
            if (!all_of(&body, letter_of(a->number), (size_t)a->size)) return fail(e, "a wrong echo");
        } else if (body.n != body_of(a->number, expected) || memcmp(body.p, expected, body.n) != 0) {
            return fail(e, "a wrong body");
        }
        e->answered++;
    }
    if (*failure) return;
    if (e->in.at != e->in.n) return fail(e, "more than it had asked for");
    shut(e);
}

static void tame_client(end *e) {
    static const size_t sizes[] = {1, 100, 10000, 100000};
    ssize_t got;
    int ended;
    if (chance(20)) return rest(e);
    if (chance(600)) return push(e);
    const char *p = pull(e, sizes[below(4)], &got, &ended);
    if (ended) return shut(e);
    if (!p) return;
    put(&e->in, p, (size_t)got);
    check(e);
}

static void tame_answer(end *e, int number) {
    char body[3000 * 8];
    size_t n = body_of(number, body), kind = below(10);
    if (kind == 0) putf(&e->out, "HTTP/1.1 102 Processing\r\n\r\n");
    if (kind < 4) {
        putf(&e->out, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", n);
        put(&e->out, body, n);
    } else if (kind < 5) {                                      /* its end is the end of the connection */
        putf(&e->out, "HTTP/1.1 200 OK\r\n\r\n");
        put(&e->out, body, n);
        e->closes = 1;
    } else {
        putf(&e->out, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for (size_t at = 0, piece; at < n; at += piece) {
            piece = 1 + below(8000);
            if (piece > n - at) piece = n - at;
            putf(&e->out, "%zx\r\n", piece);
            put(&e->out, body + at, piece);
            putf(&e->out, "\r\n");
        }
        putf(&e->out, "0\r\n\r\n");
    }
}

static void tame_peer(end *e) {
    static const size_t sizes[] = {10, 1000, 100000};
    static bytes body;
    char line[100];
    ssize_t got;
    size_t head;
    int ended, number, size;
    if (e->closes && e->out.at == e->out.n) return shut(e);
    if (chance(500)) return push(e);
    const char *p = pull(e, sizes[below(3)], &got, &ended);
    if (ended) return shut(e);
    if (!p) return;
    if (e->echoes) return put(&e->out, p, (size_t)got);
    put(&e->in, p, (size_t)got);
    long whole = unwrapped(e->in.p, e->in.n, &body, &head);
    if (whole < 0) return fail(e, "a request that is none");
    if (whole == 0) return;
    snprintf(line, sizeof line, "%.*s", (int)head, e->in.p);
    if (sscanf(line, "%*[A-Z] /%*[a-z]/%d/%d HTTP/1.1\r\n", &number, &size) != 2)
        return fail(e, "a request that was not asked");
    did(e, "is asked", number);
    if (whole != (long)e->in.n) return fail(e, "a request before the answer to the last one");
    if (field(e->in.p, head, "upgrade", "websocket")) {
        putf(&e->out, "HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        e->echoes = 1;
    } else {
        if (body.n && !all_of(&body, letter_of(number), (size_t)size)) fail(e, "a wrong request body");
        if (!body.n && size && !strncmp(e->in.p, "POST", 4)) fail(e, "a request body lost");
        tame_answer(e, number);
    }
    clear(&e->in);
}

/* ---- the round ---------------------------------------------------------------------------- */

static end *made(int fd, int kind, int tcp) {
    end *e = calloc(1, sizeof *e);
    if (!e) abort();
    e->fd = fd;
    e->kind = kind;
    e->tcp = tcp;
    e->number = kind >= WILD_PEER ? numbers[1]++ : numbers[0]++;
    seen[kind]++;
    progress();
    ends[n_ends++] = e;
    did(e, "begins", tcp);
    return e;
}

static void forget(int i) {
    end *e = ends[i];
    if (e->kind == WILD_CLIENT) {
        int ok = e->n_first == 12 && !strncmp(e->first, "HTTP/1.", 7) && e->first[9] >= '1' && e->first[9] <= '5';
        if (e->n_first == 12 && !ok) fail(e, "an answer that is none");
        answers[ok ? e->first[9] - '0' : 0]++;
    }
    free(e->out.p);
    free(e->in.p);
    free(e);
    ends[i] = ends[--n_ends];
}

static void accept_all(void) {
    struct pollfd fds[] = {{place.wild, POLLIN, 0}, {place.wild_tcp, POLLIN, 0}, {place.tame, POLLIN, 0}};
    if (poll(fds, 3, 0) <= 0) return;
    for (int i = 0; i < 3; i++)
        while (fds[i].revents && n_ends < ENDS) {
            int fd = accept4(fds[i].fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
            if (fd < 0) break;
            end *e = made(fd, i < 2 ? WILD_PEER : TAME_PEER, i == 1);
            if (i < 2 && chance(30)) reset(e);
        }
}

static void begin_client(void) {
    int tcp = chance(100), fd = socket(tcp ? AF_INET : AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int result;
    if (fd < 0) abort();
    if (tcp) {
        struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)place.web_port)};
        at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        result = connect(fd, (struct sockaddr *)&at, sizeof at);
        if (result < 0 && errno == EINPROGRESS) result = 0;
    } else {
        struct sockaddr_un at = {.sun_family = AF_UNIX};
        strncpy(at.sun_path, place.web, sizeof at.sun_path - 1);
        result = connect(fd, (struct sockaddr *)&at, sizeof at);
    }
    if (result < 0) {
        if (errno != EAGAIN) abort();
        close(fd);                                              /* a full backlog: later */
        return;
    }
    left--;
    end *e = made(fd, now.hasty || chance(800) ? WILD_CLIENT : TAME_CLIENT, tcp);
    if (e->kind == WILD_CLIENT) wild_script(e);
    else tame_script(e);
}

void fz_setup(const setup *given) { place = *given; }

void fz_corpus(int which, const char *const *texts, const size_t *sizes, int n) {
    corpora[which].texts = calloc((size_t)n, sizeof(text));
    corpora[which].n = n;
    for (int i = 0; i < n; i++) {
        char *copy = malloc(sizes[i] + 1);
        memcpy(copy, texts[i], sizes[i]);
        corpora[which].texts[i] = (text){copy, sizes[i]};
    }
}

void fz_begin(const epoch *given) {
    now = *given;
    state = now.seed;
    left = now.connections;
    silent = 0;
    steps = n_last = 0;
    progress();
    numbers[0] = numbers[1] = 0;
}

/* From now on wild clients at most read, and their peers do nothing: the engine has to end it all. */
void fz_silence(void) { silent = 1; }

int fz_round(void) {
    static void (*const step[KINDS])(end *) = {wild_client, tame_client, wild_peer, tame_peer};
    struct timespec t;
    int waiting = 0, todo = 0;
    clock_gettime(CLOCK_MONOTONIC, &t);
    clock_ns = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    accept_all();
    for (int i = 1 << below(now.actors > 64 ? 8 : 6); i > 0; i--) {
        steps++;
        if (left && n_ends < now.actors && chance(300)) {
            begin_client();
        } else if (n_ends) {
            int which = (int)below((size_t)n_ends);
            end *e = ends[which];
            if (e->wake > (now.hasty ? clock_ns : steps) && !silent) continue;
            if (!e->over) step[e->kind](e);
            if (e->over && !*failure) forget(which);
            if (*failure) return FZ_FAILED;
        }
    }
    if (chance(100)) todo |= FZ_TURN;
    if (chance(2)) todo |= FZ_RELOAD;
    if (now.hasty && chance(2)) todo |= FZ_SLEEP;
    int stuck = steps - moved > (uint64_t)STUCK * (uint64_t)(n_ends + 1) && clock_ns - moved_ns > STUCK_NS;
    if (left && !stuck) return todo;
    for (int i = 0; i < n_ends && !waiting; i++) {
        waiting = ends[i]->kind == TAME_CLIENT;
        if (waiting && stuck) fail(ends[i], "it waits for ever");
    }
    if (*failure) return FZ_FAILED;
    if (!left && !waiting) todo |= FZ_DONE;
    return todo;
}

void fz_leave(void) {
    accept_all();
    while (n_ends) {
        if (chance(500)) shut(ends[n_ends - 1]);
        else reset(ends[n_ends - 1]);
        forget(n_ends - 1);
    }
}

void fz_counts(uint64_t *to) {
    memcpy(to, seen, sizeof seen);
    memcpy(to + KINDS, answers, sizeof answers);
}

/* ---- what went wrong ------------------------------------------------------------------------ */

void fz_report(void) {
    uint64_t from = n_last > DONE_LAST ? n_last - DONE_LAST : 0;
    fprintf(stderr, "\nepoch's seed %llu, step %llu\nWhat was done last:\n", (unsigned long long)now.seed,
            (unsigned long long)steps);
    for (uint64_t i = from; i < n_last; i++)
        fprintf(stderr, "  %s %u %s %ld\n", NAMES[last[i % DONE_LAST].kind], last[i % DONE_LAST].number,
                last[i % DONE_LAST].what, last[i % DONE_LAST].size);
    for (int i = 0; i < n_ends; i++) {
        int unsent = 0, unread = 0;
        ioctl(ends[i]->fd, SIOCOUTQ, &unsent);
        ioctl(ends[i]->fd, SIOCINQ, &unread);
        fprintf(stderr, "%s %u, %s: the kernel has %d bytes from it and %d for it\n", NAMES[ends[i]->kind],
                ends[i]->number, ends[i]->tcp ? "TCP" : "Unix", unsent, unread);
    }
    for (int i = 0; i < n_ends; i++) {
        end *e = ends[i];
        struct pollfd seen_of = {e->fd, POLLRDHUP, 0};
        if (failed ? e != failed : e->over || poll(&seen_of, 1, 0) != 0) continue;   /* or it was ended */
        fprintf(stderr, "%s %u sent '", NAMES[e->kind], e->number);
        escaped(stderr, e->out.p, e->out.at);
        fprintf(stderr, "', has yet '");
        escaped(stderr, e->out.p + e->out.at, e->out.n - e->out.at);
        fprintf(stderr, "', got '");
        if (e->in.n > 400) fprintf(stderr, "[%zu bytes]", e->in.n - 400);
        escaped(stderr, e->in.p + (e->in.n > 400 ? e->in.n - 400 : 0), e->in.n > 400 ? 400 : e->in.n);
        fprintf(stderr, "'\n");
    }
    fprintf(stderr, "%s\n", *failure ? failure : "The ends saw nothing wrong.");
    fflush(stderr);
}

/* A check of the core or of a sanitizer has failed, or the engine does not return. */
static void aborted(int number) {
    signal(number, SIG_DFL);
    if (number == SIGALRM) fprintf(stderr, "the engine has not returned for a minute\n");
    fz_report();
    raise(SIGABRT);
}

/* Report when the process is about to die of SIGABRT, or is not told that it lives for a minute. */
void fz_watch(int on) {
    signal(SIGABRT, on ? aborted : SIG_DFL);
    signal(SIGALRM, on ? aborted : SIG_DFL);
    alarm(0);
}

void fz_alive(void) { alarm(60); }
