"""faults: what is wrong with a token, in one sentence for each: for the client's developer, who can mend it.

They say which check failed, and nothing that is in the token."""

TEXTS = {
    TOKEN_TOO_LONG: "The token is longer than 8,192 characters.",
    TOKEN_MALFORMED: "The token is not three parts of base64url, separated by dots.",
    TOKEN_HEADER_INVALID: "The token's header is not a JSON object with an algorithm, each name once.",
    TOKEN_CLAIMS_INVALID: "The token's claims are not a JSON object, each name once, with times as numbers.",
    TOKEN_NOT_SIGNED: "The token is not signed.",
    TOKEN_ALGORITHM_REFUSED: "The token's algorithm (alg) is not one that this key may be used with.",
    TOKEN_CRITICAL_UNKNOWN: "The token requires an extension (crit) that is not supported.",
    TOKEN_WRONG_TYPE: "The token's type (typ) is not one that is accepted here.",
    TOKEN_ISSUER_UNKNOWN: "The token's issuer (iss) is not one that is trusted here.",
    TOKEN_KEY_UNKNOWN: "The token's issuer has no key with this id (kid). It may have replaced its keys: get a new token.",
    TOKEN_SIGNATURE_INVALID: "The token's signature is not valid.",
    TOKEN_EXPIRED: "The token has expired.",
    TOKEN_NOT_YET_VALID: "The token is not valid yet (nbf). Check the clock of the machine that issued it.",
    TOKEN_ISSUED_IN_FUTURE: "The token was issued in the future (iat). Check the clock of the machine that issued it.",
    TOKEN_WITHOUT_EXPIRY: "The token has no expiry (exp).",
    TOKEN_LIVES_TOO_LONG: "The token lives longer (from iat to exp) than is accepted here.",
    TOKEN_WRONG_AUDIENCE: "The token is for another audience (aud).",
    TOKEN_WITHOUT_SUBJECT: "The token does not name the caller in the claim that is used here.",
    TOKEN_NOT_ACTIVE: "The token's issuer says that it is not active.",
    TOKEN_REVOKED: "The token has been revoked.",
    TOKEN_NOT_BOUND: "The token belongs to another client certificate.",
}
