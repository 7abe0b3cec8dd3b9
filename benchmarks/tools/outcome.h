/* What a run of `load` counts, and how it says so: the last line of its output, one JSON object.
 *
 *   window_s         length of the measured window
 *   responses        responses completed in it (what throughput and CPU per request divide by)
 *   statuses         {"200": n, …} over the whole run, warm-up and what was on its way at the end included
 *   connect_errors   connect() failed
 *   tls_errors       libssl refused something, as the server's certificate, or the server did (an alert)
 *   resets           a connection ended with a request on it unanswered
 *   timeouts         no answer within --timeout; the connection is replaced
 *   protocol_errors  not an HTTP/1.1 response with a Content-Length or none needed
 *   reconnects       connections the server ended between two requests: allowed, no error
 *   unanswered       open loop: due in the window, still without an answer after --timeout more
 *   latency          nanoseconds: a sparse histogram (histogram.h) of requests of the window
 *   tls              with --tls: what was agreed on, and how many handshakes (handshakes.h)
 */
#ifndef FASTGATE_BENCH_OUTCOME_H
#define FASTGATE_BENCH_OUTCOME_H

#include "handshakes.h"
#include "histogram.h"

static struct histogram latency;
static uint64_t responses, in_window, statuses[1000];
static uint64_t connect_errors, tls_errors, resets, timeouts, protocol_errors, reconnects, unanswered;

/* Requests that are over, one way or the other. */
static uint64_t finished_requests(void)
{
    return responses + connect_errors + tls_errors + resets + timeouts + protocol_errors;
}

static void print_outcome(const char *mode, uint32_t connections, double rate, double window)
{
    printf("{\"version\": 1, \"mode\": \"%s\", \"connections\": %u, \"rate\": %g, \"window_s\": %.6f", mode,
           connections, rate, window);
    const struct {
        const char *name;
        uint64_t n;
    } counts[] = {
        {"responses", in_window},     {"connect_errors", connect_errors},   {"tls_errors", tls_errors},
        {"resets", resets},           {"timeouts", timeouts},               {"protocol_errors", protocol_errors},
        {"reconnects", reconnects},   {"unanswered", unanswered},
    };
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        printf(", \"%s\": %llu", counts[i].name, (unsigned long long)counts[i].n);
    printf(", \"statuses\": {");
    const char *comma = "";
    for (int i = 0; i < 1000; i++)
        if (statuses[i]) {
            printf("%s\"%d\": %llu", comma, i, (unsigned long long)statuses[i]);
            comma = ", ";
        }
    printf("}, \"latency\": ");
    histogram_print(&latency, stdout);
    if (tls_context)
        tls_print();
    puts("}");
}

#endif
