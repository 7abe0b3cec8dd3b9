"""client: HTTP/1.1 with upstreams: one call at a time on a connection.

Requests are written by `writer`, answers read by `reader`; this table combines the two.
"""
from fastgate._core.http1.reader cimport (
    answer_ends_with_connection, answer_expect_body, answer_head, answer_skip, answer_take)
from fastgate._core.http1.writer cimport write_request

cdef client_codec CODEC
CODEC.request = write_request
CODEC.head = answer_head
CODEC.expect_body = answer_expect_body
CODEC.take = answer_take
CODEC.skip = answer_skip
CODEC.ends_with_connection = answer_ends_with_connection


cdef const client_codec *client_http1() noexcept nogil:
    return &CODEC
