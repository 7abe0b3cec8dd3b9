"""faults: what is wrong with a token, as a number. FAULT names of access logs, after those of TLS (tls/faults.pxd)."""

# Append only: the numbers are in logs.
cpdef enum TokenFault:
    TOKEN_TOO_LONG = 96                   # more than TOKEN_MOST octets
    TOKEN_MALFORMED = 97                  # not three parts of base64url
    TOKEN_HEADER_INVALID = 98             # the header is not strict JSON
    TOKEN_CLAIMS_INVALID = 99             # the claims are not strict JSON
    TOKEN_NOT_SIGNED = 100                # alg none
    TOKEN_ALGORITHM_REFUSED = 101         # not an algorithm of the key, or of the issuer
    TOKEN_CRITICAL_UNKNOWN = 102          # crit names something that is not understood
    TOKEN_WRONG_TYPE = 103                # typ
    TOKEN_ISSUER_UNKNOWN = 104            # iss
    TOKEN_KEY_UNKNOWN = 105               # no key has this id, or none fits
    TOKEN_SIGNATURE_INVALID = 106
    TOKEN_EXPIRED = 107
    TOKEN_NOT_YET_VALID = 108             # nbf
    TOKEN_ISSUED_IN_FUTURE = 109          # iat
    TOKEN_WITHOUT_EXPIRY = 110
    TOKEN_LIVES_TOO_LONG = 111
    TOKEN_WRONG_AUDIENCE = 112            # aud
    TOKEN_WITHOUT_SUBJECT = 113           # the claim that names the caller
    TOKEN_NOT_ACTIVE = 114                # says its issuer
    TOKEN_REVOKED = 115                   # here
    TOKEN_NOT_BOUND = 116                 # to the client's certificate
