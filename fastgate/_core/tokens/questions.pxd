"""questions: what exchanges wait for that somebody else knows (exchange/asking.pyx)."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    QUESTIONS = 32            # for control that have not been taken
    QUESTION_TEXT = 256       # octets

cdef enum QuestionKind:
    ASK_KEYS = 1              # control: the issuer's token names a key that we do not have
    ASK_SUBJECT = 2           # control: the issuer's subject is to become a consumer
    ASK_TOKEN = 3             # the issuer: whether a token is active

cdef struct question:         # for control
    uint64_t issuer
    uint8_t kind              # QuestionKind
    uint32_t len
    char text[QUESTION_TEXT]
