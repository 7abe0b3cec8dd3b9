/* What `load` does with TLS: handshakes, sessions carried from a connection to the next, and counts.
 *
 * One context for all connections. With `resume`, each connection offers the session that its last one
 * was given; whether there was one, and whether the server took it, is counted, so that a run of "resumed"
 * handshakes that were full ones cannot pass unseen. Tickets of TLS 1.3 are used once, as libssl does it.
 */
#ifndef FASTGATE_BENCH_HANDSHAKES_H
#define FASTGATE_BENCH_HANDSHAKES_H

#include "tls.h"

struct secure { /* of one connection */
    SSL *ssl;
    SSL_SESSION *session; /* for the next connection */
    int offered;
};

static struct tls_options {
    int wanted, resume, insecure;
    const char *ca, *name;
    struct tls_terms terms;
} tls_options;

static SSL_CTX *tls_context;

/* Of the whole run; window_*: of those within the measured window. */
static struct tls_counts {
    unsigned long long full, resumed, refused, unoffered, bare_ends, window_full, window_resumed;
} tls_counts;
static char tls_version_seen[16], tls_cipher_seen[64], tls_group_seen[32], tls_key_seen[32], tls_error[256];

static int keep_session(SSL *ssl, SSL_SESSION *session)
{
    struct secure *s = SSL_get_app_data(ssl);
    SSL_SESSION_free(s->session);
    s->session = session;
    return 1;
}

/* `held`: connections will rest, and are not to need memory for buffers meanwhile. */
static void tls_prepare(int held)
{
    struct tls_options *o = &tls_options;
    if (!o->ca == !o->insecure)
        die("--tls needs --tls-ca FILE, or --tls-insecure to verify nothing");
    if (o->ca && !o->name)
        die("--tls-ca needs --tls-name NAME, which the certificate must be valid for");
    tls_context = tls_client(o->ca, &o->terms);
    if (held)
        SSL_CTX_set_mode(tls_context, SSL_MODE_RELEASE_BUFFERS);
    if (o->resume) {
        SSL_CTX_set_session_cache_mode(tls_context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
        SSL_CTX_sess_set_new_cb(tls_context, keep_session);
    }
}

static void tls_begin(struct secure *s, int fd)
{
    SSL *ssl = s->ssl = SSL_new(tls_context);
    tls_must(ssl && SSL_set_fd(ssl, fd), "a connection of TLS");
    SSL_set_connect_state(ssl);
    SSL_set_app_data(ssl, s);
    if (tls_options.name) {
        tls_must(SSL_set_tlsext_host_name(ssl, tls_options.name) == 1, "--tls-name");
        if (tls_options.ca)
            tls_must(SSL_set1_host(ssl, tls_options.name), "--tls-name");
    }
    s->offered = s->session && SSL_SESSION_is_resumable(s->session) && SSL_set_session(ssl, s->session);
}

/* What was agreed on, by the first handshake that was a full one. */
static void tls_look(SSL *ssl)
{
    EVP_PKEY *key = X509_get0_pubkey(SSL_get0_peer_certificate(ssl));
    const char *group = SSL_group_to_name(ssl, (int)SSL_get_negotiated_group(ssl));
    snprintf(tls_version_seen, sizeof tls_version_seen, "%s", SSL_get_version(ssl));
    snprintf(tls_cipher_seen, sizeof tls_cipher_seen, "%s", SSL_get_cipher_name(ssl));
    snprintf(tls_group_seen, sizeof tls_group_seen, "%s", group ? group : "");
    if (key)
        snprintf(tls_key_seen, sizeof tls_key_seen, "%s-%d", EVP_PKEY_get0_type_name(key), EVP_PKEY_get_bits(key));
}

/* 1: the handshake is complete; 0: not yet; -1: it failed, and errno is EPROTO if TLS is the reason. */
static int tls_shake(struct secure *s, int in_window)
{
    ERR_clear_error();
    errno = 0;
    ssize_t n = tls_result(s->ssl, SSL_do_handshake(s->ssl));
    if (n < 0 && errno == EAGAIN)
        return 0;
    if (n <= 0) {
        long verified = SSL_get_verify_result(s->ssl);
        if (!*tls_error)
            snprintf(tls_error, sizeof tls_error, "%s%s%s", n ? tls_reason() : "closed in the handshake",
                     verified ? ": " : "", verified ? X509_verify_cert_error_string(verified) : "");
        return -1;
    }
    int resumed = SSL_session_reused(s->ssl);
    if (!resumed && !tls_counts.full)
        tls_look(s->ssl);
    ++*(resumed ? &tls_counts.resumed : &tls_counts.full);
    if (in_window)
        ++*(resumed ? &tls_counts.window_resumed : &tls_counts.window_full);
    tls_counts.refused += s->offered && !resumed;
    tls_counts.unoffered += tls_options.resume && !s->offered;
    return 1;
}

/* As recv. Ends without close_notify are counted. */
static ssize_t tls_take(struct secure *s, char *buffer, size_t room)
{
    ssize_t n = tls_recv(s->ssl, buffer, room);
    tls_counts.bare_ends += n == 0 && !(SSL_get_shutdown(s->ssl) & SSL_RECEIVED_SHUTDOWN);
    return n;
}

static void tls_drop(struct secure *s, int notify)
{
    if (s->ssl)
        tls_end(s->ssl, notify);
    s->ssl = NULL;
}

/* , "tls": {…}: only with --tls. */
static void tls_print(void)
{
    const struct tls_counts *n = &tls_counts;
    printf(", \"tls\": {\"version\": \"%s\", \"cipher\": \"%s\", \"group\": \"%s\", \"key\": \"%s\", "
           "\"error\": \"%s\", \"full\": %llu, \"resumed\": %llu, \"refused\": %llu, \"unoffered\": %llu, "
           "\"bare_ends\": %llu, "
           "\"window_full\": %llu, \"window_resumed\": %llu}",
           tls_version_seen, tls_cipher_seen, tls_group_seen, tls_key_seen, tls_error, n->full, n->resumed,
           n->refused, n->unoffered, n->bare_ends, n->window_full, n->window_resumed);
}

#endif
