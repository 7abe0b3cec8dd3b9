"""openssl: which OpenSSL the core runs with, as Python asks for it."""


def openssl_version():
    """The version of the loaded libcrypto, as "3.0.19"."""
    return OpenSSL_version(OPENSSL_VERSION_STRING).decode()
