"""openssl: the parts of libssl and libcrypto (3.0 or newer) that the core needs, declared once. No code of ours."""
from libc.stdint cimport uint64_t

cdef extern from "<openssl/evp.h>" nogil:
    ctypedef struct EVP_PKEY:
        pass
    ctypedef struct EVP_MD:
        pass
    ctypedef struct EVP_CIPHER:
        pass
    ctypedef struct EVP_CIPHER_CTX:
        pass
    ctypedef struct EVP_MAC_CTX:
        pass
    ctypedef struct EVP_PKEY_CTX:
        pass
    ctypedef struct EVP_MD_CTX:
        pass
    void EVP_PKEY_free(EVP_PKEY *key)
    int EVP_PKEY_get_base_id(const EVP_PKEY *key)
    int EVP_PKEY_get_bits(const EVP_PKEY *key)
    int EVP_PKEY_RSA, EVP_PKEY_EC, EVP_PKEY_ED25519, EVP_PKEY_ED448
    const EVP_MD *EVP_sha256()
    const EVP_MD *EVP_sha384()
    const EVP_MD *EVP_sha512()
    const EVP_MD *EVP_sha512_256()
    EVP_PKEY_CTX *EVP_PKEY_CTX_new(EVP_PKEY *key, void *engine)
    void EVP_PKEY_CTX_free(EVP_PKEY_CTX *ctx)
    int EVP_PKEY_verify_init(EVP_PKEY_CTX *ctx)
    int EVP_PKEY_verify(EVP_PKEY_CTX *ctx, const unsigned char *signature, size_t size, const unsigned char *digest,
                        size_t n)
    int EVP_PKEY_CTX_set_signature_md(EVP_PKEY_CTX *ctx, const EVP_MD *md)
    EVP_MD_CTX *EVP_MD_CTX_new()
    void EVP_MD_CTX_free(EVP_MD_CTX *ctx)
    int EVP_DigestVerifyInit(EVP_MD_CTX *ctx, EVP_PKEY_CTX **key, const EVP_MD *md, void *engine, EVP_PKEY *pkey)
    int EVP_DigestVerify(EVP_MD_CTX *ctx, const unsigned char *signature, size_t size, const unsigned char *text,
                         size_t n)
    const EVP_CIPHER *EVP_aes_256_cbc()
    int EVP_CIPHER_CTX_get_iv_length(const EVP_CIPHER_CTX *ctx)
    int EVP_EncryptInit_ex(EVP_CIPHER_CTX *ctx, const EVP_CIPHER *cipher, void *engine,
                           const unsigned char *key, const unsigned char *iv)
    int EVP_DecryptInit_ex(EVP_CIPHER_CTX *ctx, const EVP_CIPHER *cipher, void *engine,
                           const unsigned char *key, const unsigned char *iv)
    int EVP_MAC_CTX_set_params(EVP_MAC_CTX *ctx, const OSSL_PARAM *params)
    int EVP_Digest(const void *data, size_t count, unsigned char *md, unsigned int *size, const EVP_MD *type,
                   void *engine)

cdef extern from "<openssl/params.h>" nogil:
    ctypedef struct OSSL_PARAM:
        pass
    OSSL_PARAM OSSL_PARAM_construct_octet_string(const char *key, void *buf, size_t bsize)
    OSSL_PARAM OSSL_PARAM_construct_utf8_string(const char *key, char *buf, size_t bsize)
    OSSL_PARAM OSSL_PARAM_construct_end()

cdef extern from "<openssl/rsa.h>" nogil:
    int EVP_PKEY_CTX_set_rsa_padding(EVP_PKEY_CTX *ctx, int padding)
    int EVP_PKEY_CTX_set_rsa_mgf1_md(EVP_PKEY_CTX *ctx, const EVP_MD *md)
    int EVP_PKEY_CTX_set_rsa_pss_saltlen(EVP_PKEY_CTX *ctx, int size)
    int RSA_PKCS1_PADDING, RSA_PKCS1_PSS_PADDING, RSA_PSS_SALTLEN_DIGEST

cdef extern from * nogil:
    """
    #define OPENSSL_SUPPRESS_DEPRECATED     /* the one-shot EVP calls cost several times as much */
    #include <openssl/sha.h>
    static inline void fg_sha_256(const unsigned char *p, size_t n, unsigned char *out) {
        SHA256_CTX c;
        SHA256_Init(&c); SHA256_Update(&c, p, n); SHA256_Final(out, &c);
    }
    static inline void fg_sha_384(const unsigned char *p, size_t n, unsigned char *out) {
        SHA512_CTX c;
        SHA384_Init(&c); SHA384_Update(&c, p, n); SHA384_Final(out, &c);
    }
    static inline void fg_sha_512(const unsigned char *p, size_t n, unsigned char *out) {
        SHA512_CTX c;
        SHA512_Init(&c); SHA512_Update(&c, p, n); SHA512_Final(out, &c);
    }
    """
    void sha256 "fg_sha_256"(const unsigned char *p, size_t n, unsigned char *out)
    void sha384 "fg_sha_384"(const unsigned char *p, size_t n, unsigned char *out)
    void sha512 "fg_sha_512"(const unsigned char *p, size_t n, unsigned char *out)

cdef extern from "<openssl/hmac.h>" nogil:
    unsigned char *HMAC(const EVP_MD *md, const void *key, int key_len, const unsigned char *data, size_t data_len,
                        unsigned char *out, unsigned int *out_len)

cdef extern from "<openssl/crypto.h>" nogil:
    void OPENSSL_cleanse(void *p, size_t n)
    void OPENSSL_free(void *p)
    int CRYPTO_memcmp(const void *a, const void *b, size_t n)

cdef extern from "<openssl/rand.h>" nogil:
    int RAND_bytes(unsigned char *out, int n)

cdef extern from "<openssl/err.h>" nogil:
    unsigned long ERR_peek_last_error()
    unsigned long ERR_peek_error()
    const char *ERR_reason_error_string(unsigned long code)
    void ERR_clear_error()
    int ERR_GET_REASON(unsigned long code)

cdef extern from "<openssl/bio.h>" nogil:
    ctypedef struct BIO:
        pass
    ctypedef struct BIO_METHOD:
        pass
    BIO_METHOD *BIO_meth_new(int kind, const char *name)
    int BIO_meth_set_write(BIO_METHOD *method, int (*write)(BIO *, const char *, int) noexcept nogil)
    int BIO_meth_set_read(BIO_METHOD *method, int (*read)(BIO *, char *, int) noexcept nogil)
    int BIO_meth_set_ctrl(BIO_METHOD *method, long (*ctrl)(BIO *, int, long, void *) noexcept nogil)
    int BIO_meth_set_create(BIO_METHOD *method, int (*create)(BIO *) noexcept nogil)
    BIO *BIO_new(const BIO_METHOD *method)
    void BIO_set_data(BIO *b, void *p)
    void *BIO_get_data(BIO *b)
    void BIO_set_init(BIO *b, int on)
    void BIO_set_retry_read(BIO *b)
    void BIO_set_retry_write(BIO *b)
    void BIO_clear_retry_flags(BIO *b)
    int BIO_TYPE_SOURCE_SINK, BIO_CTRL_FLUSH

cdef extern from "<openssl/x509_vfy.h>" nogil:
    ctypedef struct X509_STORE:
        pass
    ctypedef struct X509_STORE_CTX:
        pass
    ctypedef struct X509_VERIFY_PARAM:
        pass
    X509_STORE *X509_STORE_new()
    void X509_STORE_free(X509_STORE *store)
    int X509_STORE_up_ref(X509_STORE *store)
    int X509_STORE_add_cert(X509_STORE *store, X509 *x)
    int X509_STORE_add_crl(X509_STORE *store, X509_CRL *crl)
    int X509_STORE_set_flags(X509_STORE *store, unsigned long flags)
    int X509_STORE_CTX_get_error(const X509_STORE_CTX *ctx)
    void X509_STORE_CTX_set_error(X509_STORE_CTX *ctx, int error)
    stack_st_X509 *X509_STORE_CTX_get0_chain(const X509_STORE_CTX *ctx)
    void *X509_STORE_CTX_get_ex_data(const X509_STORE_CTX *ctx, int index)
    int X509_VERIFY_PARAM_set1_ip_asc(X509_VERIFY_PARAM *param, const char *text)
    const char *X509_verify_cert_error_string(long n)
    unsigned long X509_V_FLAG_CRL_CHECK, X509_V_FLAG_CRL_CHECK_ALL, X509_V_FLAG_PARTIAL_CHAIN, X509_V_FLAG_TRUSTED_FIRST
    int X509_V_OK, X509_V_ERR_UNABLE_TO_GET_CRL, X509_V_ERR_CERT_HAS_EXPIRED, X509_V_ERR_CERT_NOT_YET_VALID
    int X509_V_ERR_CERT_REVOKED, X509_V_ERR_CERT_UNTRUSTED, X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT
    int X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH, X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN
    int X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY
    int X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE

cdef extern from "<openssl/x509.h>" nogil:
    ctypedef struct X509:
        pass
    ctypedef struct X509_CRL:
        pass
    ctypedef struct X509_NAME:
        pass
    ctypedef struct ASN1_TIME:
        pass
    struct stack_st_X509:
        pass
    struct stack_st_X509_NAME:
        pass
    X509 *d2i_X509(X509 **to, const unsigned char **der, long n)
    int i2d_X509(const X509 *x, unsigned char **out)
    int i2d_X509_PUBKEY(const X509_PUBKEY *key, unsigned char **out)
    ctypedef struct X509_PUBKEY:
        pass
    X509_PUBKEY *X509_get_X509_PUBKEY(const X509 *x)
    X509_CRL *d2i_X509_CRL(X509_CRL **to, const unsigned char **der, long n)
    EVP_PKEY *d2i_PUBKEY(EVP_PKEY **to, const unsigned char **der, long n)
    EVP_PKEY *d2i_AutoPrivateKey(EVP_PKEY **to, const unsigned char **der, long n)
    void X509_free(X509 *x)
    void X509_CRL_free(X509_CRL *x)
    X509_NAME *X509_get_subject_name(const X509 *x)
    X509_NAME *X509_NAME_dup(const X509_NAME *name)
    int X509_cmp(const X509 *a, const X509 *b)
    int X509_cmp_current_time(const ASN1_TIME *when)
    const ASN1_TIME *X509_get0_notAfter(const X509 *x)

cdef extern from * nogil:
    """
    #include <openssl/x509.h>
    #include <openssl/ssl.h>
    /* The macros of stacks, as functions. */
    static inline int fg_x509_num(const STACK_OF(X509) *s) { return s ? sk_X509_num(s) : 0; }
    static inline X509 *fg_x509_value(const STACK_OF(X509) *s, int i) { return sk_X509_value(s, i); }
    static inline STACK_OF(X509_NAME) *fg_names_new(void) { return sk_X509_NAME_new_null(); }
    static inline int fg_names_push(STACK_OF(X509_NAME) *s, X509_NAME *n) { return sk_X509_NAME_push(s, n); }
    """
    int fg_x509_num(const stack_st_X509 *s)
    X509 *fg_x509_value(const stack_st_X509 *s, int i)
    stack_st_X509_NAME *fg_names_new()
    int fg_names_push(stack_st_X509_NAME *s, X509_NAME *n)

cdef extern from "<openssl/ssl.h>" nogil:
    ctypedef struct SSL:
        pass
    ctypedef struct SSL_CTX:
        pass
    ctypedef struct SSL_METHOD:
        pass
    ctypedef struct SSL_SESSION:
        pass
    ctypedef struct SSL_CIPHER:
        pass
    ctypedef int (*verify_fn)(int ok, X509_STORE_CTX *ctx) noexcept nogil
    ctypedef int (*alpn_fn)(SSL *ssl, const unsigned char **out, unsigned char *outlen, const unsigned char *offered,
                            unsigned int n, void *arg) noexcept nogil
    ctypedef int (*ticket_key_fn)(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
                                  EVP_MAC_CTX *mac, int encrypt) noexcept nogil
    ctypedef int (*ticket_gen_fn)(SSL *ssl, void *arg) noexcept nogil
    ctypedef int (*ticket_dec_fn)(SSL *ssl, SSL_SESSION *session, const unsigned char *name, size_t n, int status,
                                  void *arg) noexcept nogil
    ctypedef int (*hello_fn)(SSL *ssl, int *alert, void *arg) noexcept nogil
    ctypedef int (*session_fn)(SSL *ssl, SSL_SESSION *session) noexcept nogil
    ctypedef void (*info_fn)(const SSL *ssl, int where, int ret) noexcept nogil
    const SSL_METHOD *TLS_server_method()
    const SSL_METHOD *TLS_client_method()
    SSL_CTX *SSL_CTX_new(const SSL_METHOD *method)
    void SSL_CTX_free(SSL_CTX *ctx)
    int SSL_CTX_set_min_proto_version(SSL_CTX *ctx, int version)
    uint64_t SSL_CTX_set_options(SSL_CTX *ctx, uint64_t options)
    long SSL_CTX_set_mode(SSL_CTX *ctx, long mode)
    long SSL_CTX_set_session_cache_mode(SSL_CTX *ctx, long mode)
    long SSL_CTX_set_timeout(SSL_CTX *ctx, long seconds)
    int SSL_CTX_set_cipher_list(SSL_CTX *ctx, const char *text)
    int SSL_CTX_set1_groups_list(SSL_CTX *ctx, const char *text)
    int SSL_CTX_use_certificate(SSL_CTX *ctx, X509 *x)
    int SSL_CTX_add1_chain_cert(SSL_CTX *ctx, X509 *x)
    int SSL_CTX_use_PrivateKey(SSL_CTX *ctx, EVP_PKEY *key)
    void SSL_CTX_set_cert_store(SSL_CTX *ctx, X509_STORE *store)
    void SSL_CTX_set_client_CA_list(SSL_CTX *ctx, stack_st_X509_NAME *names)
    void SSL_CTX_set_verify(SSL_CTX *ctx, int mode, verify_fn callback)
    int SSL_CTX_get_verify_mode(const SSL_CTX *ctx)
    int SSL_CTX_set_session_id_context(SSL_CTX *ctx, const unsigned char *id, unsigned int n)
    int SSL_CTX_set_tlsext_ticket_key_evp_cb(SSL_CTX *ctx, ticket_key_fn callback)
    int SSL_CTX_set_session_ticket_cb(SSL_CTX *ctx, ticket_gen_fn made, ticket_dec_fn used, void *arg)
    void SSL_CTX_set_client_hello_cb(SSL_CTX *ctx, hello_fn callback, void *arg)
    void SSL_CTX_set_alpn_select_cb(SSL_CTX *ctx, alpn_fn callback, void *arg)
    int SSL_CTX_set_alpn_protos(SSL_CTX *ctx, const unsigned char *protos, unsigned int n)
    void SSL_CTX_sess_set_new_cb(SSL_CTX *ctx, session_fn callback)
    void SSL_CTX_set_info_callback(SSL_CTX *ctx, info_fn callback)
    int SSL_CTX_set_max_early_data(SSL_CTX *ctx, unsigned int n)
    SSL *SSL_new(SSL_CTX *ctx)
    void SSL_free(SSL *ssl)
    void SSL_set_bio(SSL *ssl, BIO *read, BIO *write)
    void SSL_set_accept_state(SSL *ssl)
    void SSL_set_connect_state(SSL *ssl)
    int SSL_set_app_data(SSL *ssl, void *p)
    void *SSL_get_app_data(const SSL *ssl)
    SSL_CTX *SSL_set_SSL_CTX(SSL *ssl, SSL_CTX *ctx)
    void SSL_set_verify(SSL *ssl, int mode, verify_fn callback)
    int SSL_set_tlsext_host_name(SSL *ssl, const char *name)
    int SSL_set1_host(SSL *ssl, const char *name)
    void SSL_set_hostflags(SSL *ssl, unsigned int flags)
    X509_VERIFY_PARAM *SSL_get0_param(SSL *ssl)
    int SSL_do_handshake(SSL *ssl)
    int SSL_read(SSL *ssl, void *buf, int n)
    int SSL_write(SSL *ssl, const void *buf, int n)
    int SSL_pending(const SSL *ssl)
    int SSL_shutdown(SSL *ssl)
    void SSL_set_shutdown(SSL *ssl, int mode)
    int SSL_get_error(const SSL *ssl, int result)
    int SSL_free_buffers(SSL *ssl)
    int SSL_session_reused(const SSL *ssl)
    int SSL_version(const SSL *ssl)
    int TLS1_3_VERSION
    int SSL_is_init_finished(const SSL *ssl)
    long SSL_get_verify_result(const SSL *ssl)
    int SSL_get_ex_data_X509_STORE_CTX_idx()
    int SSL_get_state(const SSL *ssl)
    int SSL_set_session(SSL *ssl, SSL_SESSION *session)
    SSL_SESSION *SSL_get0_session "SSL_get_session" (const SSL *ssl)
    void SSL_SESSION_free(SSL_SESSION *session)
    int SSL_SESSION_up_ref(SSL_SESSION *session)
    int SSL_SESSION_is_resumable(const SSL_SESSION *session)
    int SSL_SESSION_get_protocol_version(const SSL_SESSION *session)
    long SSL_SESSION_get_time(const SSL_SESSION *session)
    long SSL_SESSION_get_timeout(const SSL_SESSION *session)
    int SSL_SESSION_set1_ticket_appdata(SSL_SESSION *session, const void *data, size_t n)
    int SSL_SESSION_get0_ticket_appdata(SSL_SESSION *session, void **data, size_t *n)
    X509 *SSL_SESSION_get0_peer(SSL_SESSION *session)
    X509 *SSL_get0_peer_certificate(const SSL *ssl)
    stack_st_X509 *SSL_get_peer_cert_chain(const SSL *ssl)
    stack_st_X509 *SSL_get0_verified_chain(const SSL *ssl)
    int SSL_client_hello_get0_ext(SSL *ssl, unsigned int kind, const unsigned char **out, size_t *n)
    int SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE, SSL_ERROR_ZERO_RETURN
    int SSL_VERIFY_NONE, SSL_VERIFY_PEER, SSL_VERIFY_FAIL_IF_NO_PEER_CERT
    int SSL_SESS_CACHE_OFF, SSL_SESS_CACHE_CLIENT, SSL_SESS_CACHE_NO_INTERNAL
    int SSL_MODE_ENABLE_PARTIAL_WRITE, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER
    uint64_t SSL_OP_NO_COMPRESSION, SSL_OP_NO_RENEGOTIATION, SSL_OP_CIPHER_SERVER_PREFERENCE, SSL_OP_PRIORITIZE_CHACHA
    int SSL_TLSEXT_ERR_OK, SSL_TLSEXT_ERR_ALERT_FATAL, SSL_TLSEXT_ERR_NOACK
    int SSL_CLIENT_HELLO_SUCCESS, SSL_CLIENT_HELLO_ERROR
    int SSL_AD_INTERNAL_ERROR, SSL_AD_UNRECOGNIZED_NAME
    int SSL_RECEIVED_SHUTDOWN, SSL_SENT_SHUTDOWN
    int SSL_TICKET_RETURN_USE, SSL_TICKET_RETURN_USE_RENEW, SSL_TICKET_RETURN_IGNORE, SSL_TICKET_RETURN_IGNORE_RENEW
    int SSL_TICKET_SUCCESS, SSL_TICKET_SUCCESS_RENEW
    int TLSEXT_TYPE_server_name, TLSEXT_NAMETYPE_host_name, TLSEXT_TYPE_application_layer_protocol_negotiation
    int SSL_R_UNSUPPORTED_PROTOCOL, SSL_R_TLSV1_ALERT_PROTOCOL_VERSION, SSL_R_WRONG_VERSION_NUMBER
    int SSL_AD_REASON_OFFSET
    int SSL_CB_ACCEPT_LOOP, SSL_CB_CONNECT_LOOP
    int TLS_ST_SR_KEY_UPDATE, TLS_ST_CR_KEY_UPDATE

cdef extern from "<openssl/x509v3.h>" nogil:
    int X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS
