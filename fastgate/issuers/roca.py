"""ROCA (CVE-2017-15361): RSA keys of some smart cards, which can be factored.

Their primes have the form k·M + 65537^a mod M, where M is a product of small primes. So the modulus
is a power of 65537 modulo each of these, which is rare for other keys: it happens to one in 2^27.
The test is the one that the finders of the weakness published.
"""

from __future__ import annotations

PRIMES = (11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157)
"""Small primes modulo which not every number is a power of 65537."""

_POWERS = {prime: {pow(65537, k, prime) for k in range(prime)} for prime in PRIMES}


def is_roca(modulus: int) -> bool:
    """Whether an RSA modulus has the pattern of the weak keys."""
    return all(modulus % prime in _POWERS[prime] for prime in PRIMES)
