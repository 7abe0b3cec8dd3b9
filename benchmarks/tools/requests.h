/* The requests that `load` sends: rendered once, then sent in turn, over and over. */
#ifndef FASTGATE_BENCH_REQUESTS_H
#define FASTGATE_BENCH_REQUESTS_H

#include "net.h"

struct request {
    char *bytes;
    size_t len;
};

struct requests {
    struct request *all;
    size_t count, next;
};

static inline const struct request *next_of(struct requests *r)
{
    const struct request *found = &r->all[r->next];
    r->next = r->next + 1 == r->count ? 0 : r->next + 1;
    return found;
}

/* A GET, or a POST with `body` octets. `headers` are whole lines, `extra` is one without its end, or NULL. */
static inline void add_request(struct requests *r, const char *path, const char *headers, const char *extra,
                               size_t body)
{
    char length[64] = "";
    if (body)
        snprintf(length, sizeof length, "Content-Length: %zu\r\n", body);
    r->all = realloc(r->all, (r->count + 1) * sizeof *r->all);
    char *bytes = NULL;
    int n = asprintf(&bytes, "%s %s HTTP/1.1\r\n%s%s%s%s\r\n", body ? "POST" : "GET", path, headers,
                     extra ? extra : "", extra ? "\r\n" : "", length);
    if (!r->all || n < 0 || !(bytes = realloc(bytes, (size_t)n + body + 1)))
        die("memory");
    memset(bytes + n, 'u', body);
    r->all[r->count++] = (struct request){bytes, (size_t)n + body};
}

/* A line is a path, or a path, a tab and one more header line. */
static inline void read_requests(struct requests *r, const char *file, const char *headers, size_t body)
{
    FILE *f = fopen(file, "r");
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    if (!f)
        die(file);
    while ((n = getline(&line, &cap, f)) > 0) {
        line[strcspn(line, "\r\n")] = 0;
        if (!*line)
            continue;
        char *tab = strchr(line, '\t');
        if (tab)
            *tab++ = 0;
        add_request(r, line, headers, tab, body);
    }
    free(line);
    fclose(f);
}

#endif
