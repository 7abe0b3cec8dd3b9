"""memory: what a worker needs for tokens. Allocated when the first one comes."""
from fastgate._core.tokens.jwt cimport jwt
from fastgate._core.tokens.verdicts cimport verdict_table

cdef struct token_memory:
    jwt scratch
    verdict_table known
