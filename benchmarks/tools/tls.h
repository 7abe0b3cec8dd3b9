/* TLS for the tools: contexts of libssl, and reading and writing as recv and send do it.
 *
 * Each side can be held to one version, one cipher suite and one group, so that whoever is measured
 * negotiates the same. Sockets are non-blocking; libssl reads ahead, so that a record takes one recv.
 */
#ifndef FASTGATE_BENCH_TLS_H
#define FASTGATE_BENCH_TLS_H

#if !__has_include(<openssl/ssl.h>)
#error "the headers of OpenSSL are missing: apt-get install libssl-dev"
#endif
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "net.h"

struct tls_terms {
    const char *version; /* "1.2" or "1.3"; NULL: both */
    const char *cipher;  /* one suite, of either version; NULL: as libssl likes */
    const char *group;   /* NULL: as libssl likes */
};

/* Why the last call of libssl failed; "" if it does not say. */
static inline const char *tls_reason(void)
{
    const char *text = ERR_reason_error_string(ERR_peek_last_error());
    return text ? text : "";
}

/* To be called for what must not fail. */
static inline void tls_must(int done, const char *what)
{
    if (done)
        return;
    fprintf(stderr, "%s: %s\n", what, *tls_reason() ? tls_reason() : "libssl refuses it");
    exit(2);
}

static inline int tls_version(const char *text)
{
    int version = !strcmp(text, "1.2") ? TLS1_2_VERSION : !strcmp(text, "1.3") ? TLS1_3_VERSION : 0;
    tls_must(version, "the version of TLS must be 1.2 or 1.3");
    return version;
}

static inline void tls_agree(SSL_CTX *ctx, const struct tls_terms *terms)
{
    int version = terms->version ? tls_version(terms->version) : 0;
    tls_must(SSL_CTX_set_min_proto_version(ctx, version ? version : TLS1_2_VERSION), "version");
    tls_must(SSL_CTX_set_max_proto_version(ctx, version), "version");
    if (terms->cipher && !strncmp(terms->cipher, "TLS_", 4))
        tls_must(SSL_CTX_set_ciphersuites(ctx, terms->cipher), terms->cipher);
    else if (terms->cipher)
        tls_must(SSL_CTX_set_cipher_list(ctx, terms->cipher), terms->cipher);
    if (terms->group)
        tls_must(SSL_CTX_set1_groups_list(ctx, terms->group), terms->group);
    SSL_CTX_set_read_ahead(ctx, 1);
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
}

static inline SSL_CTX *tls_server(const char *cert, const char *key, const struct tls_terms *terms)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    tls_must(!!ctx, "TLS");
    tls_must(SSL_CTX_use_certificate_chain_file(ctx, cert) == 1, cert);
    tls_must(SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) == 1, key);
    tls_agree(ctx, terms);
    return ctx;
}

/* A NULL `ca`: nothing is verified. */
static inline SSL_CTX *tls_client(const char *ca, const struct tls_terms *terms)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    tls_must(!!ctx, "TLS");
    if (ca)
        tls_must(SSL_CTX_load_verify_file(ctx, ca) == 1, ca);
    SSL_CTX_set_verify(ctx, ca ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
    tls_agree(ctx, terms);
    return ctx;
}

/* What a call of libssl returned, as recv and send would say it: > 0; 0: the end, with close_notify or
   without; -1 and errno: EAGAIN, EPROTO for what libssl objects to (tls_reason), or the socket's error. */
static inline ssize_t tls_result(SSL *ssl, int returned)
{
    if (returned > 0)
        return returned;
    int error = SSL_get_error(ssl, returned);
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
        errno = EAGAIN;
        return -1;
    }
    if (error == SSL_ERROR_ZERO_RETURN)
        return 0;
    if (error == SSL_ERROR_SYSCALL) {
        errno = errno ? errno : ECONNRESET;
        return -1;
    }
    if (ERR_GET_REASON(ERR_peek_last_error()) == SSL_R_UNEXPECTED_EOF_WHILE_READING)
        return 0;
    errno = EPROTO;
    return -1;
}

static inline ssize_t tls_recv(SSL *ssl, void *buffer, size_t room)
{
    ERR_clear_error();
    errno = 0;
    return tls_result(ssl, SSL_read(ssl, buffer, room > INT32_MAX ? INT32_MAX : (int)room));
}

static inline ssize_t tls_send(SSL *ssl, const void *bytes, size_t n)
{
    ERR_clear_error();
    errno = 0;
    return tls_result(ssl, SSL_write(ssl, bytes, n > INT32_MAX ? INT32_MAX : (int)n));
}

/* Send close_notify if `notify`, and free it. Its session stays good for resumption either way. */
static inline void tls_end(SSL *ssl, int notify)
{
    ERR_clear_error();
    if (notify)
        SSL_shutdown(ssl);
    SSL_set_shutdown(ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    SSL_free(ssl);
}

#endif
