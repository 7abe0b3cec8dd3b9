"""faults: what was wrong with a TLS handshake: libssl's many errors as the few that an operator tells apart."""
from fastgate._core.tls.openssl cimport (
    ERR_GET_REASON, SSL_AD_REASON_OFFSET, SSL_R_TLSV1_ALERT_PROTOCOL_VERSION, SSL_R_UNSUPPORTED_PROTOCOL,
    SSL_R_WRONG_VERSION_NUMBER, X509_V_ERR_CERT_HAS_EXPIRED, X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_REVOKED,
    X509_V_ERR_CERT_UNTRUSTED, X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT, X509_V_ERR_HOSTNAME_MISMATCH,
    X509_V_ERR_IP_ADDRESS_MISMATCH, X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT,
    X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY, X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE, X509_V_OK)


cdef int fault_of_chain(long verified) noexcept nogil:
    if verified == X509_V_OK:
        return 0
    if verified == X509_V_ERR_CERT_HAS_EXPIRED:
        return TLS_CERTIFICATE_EXPIRED
    if verified == X509_V_ERR_CERT_NOT_YET_VALID:
        return TLS_CERTIFICATE_NOT_YET_VALID
    if verified == X509_V_ERR_HOSTNAME_MISMATCH or verified == X509_V_ERR_IP_ADDRESS_MISMATCH:
        return TLS_CERTIFICATE_WRONG_NAME
    if verified == X509_V_ERR_CERT_REVOKED:
        return TLS_CERTIFICATE_REVOKED
    if (verified == X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT or verified == X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY
            or verified == X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE or verified == X509_V_ERR_CERT_UNTRUSTED
            or verified == X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT or verified == X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN):
        return TLS_CERTIFICATE_UNTRUSTED
    return TLS_CERTIFICATE_INVALID


cdef int fault_of_error(unsigned long error) noexcept nogil:
    cdef int reason = ERR_GET_REASON(error)
    if error == 0:
        return TLS_CLOSED_BY_PEER
    if reason == SSL_R_UNSUPPORTED_PROTOCOL or reason == SSL_R_TLSV1_ALERT_PROTOCOL_VERSION:
        return TLS_NO_COMMON_VERSION
    if reason == SSL_R_WRONG_VERSION_NUMBER:
        return TLS_NOT_SPOKEN
    return TLS_REFUSED_BY_PEER if reason >= SSL_AD_REASON_OFFSET else TLS_FAILED
