"""Each row of the tables of deadlines has its tests, with peers that make progress and that do not.

The tables run: connections take their deadlines from them. A row without a test, and a test for a
row that is gone, fail here.
"""

from __future__ import annotations

import test_downstream_deadlines as downstream
import test_entry as entry
import test_fault as fault
import test_route_deadline as route_deadline
import test_tls as tls
import test_tls_failures as failures
import test_tunnel as tunnel
import test_upcall_time as upcall_time
import test_upstream_deadlines as upstream

from fastgate._core.http1 import deadlines as client_side
from fastgate._core.upstream import deadlines as upstream_side

DOWNSTREAM = {
    ("PROXY", ""): entry.test_a_header_has_its_time_in_all,
    ("HANDSHAKE", ""): tls.test_a_handshake_has_its_time_in_all,
    ("IDLE", "no request came yet"): (
        downstream.test_a_connection_that_asks_nothing_is_closed_without_a_word
    ),
    ("IDLE", "part of an answer is unread"): (
        downstream.test_what_the_kernel_holds_of_an_answer_is_read_in_its_time
    ),
    ("IDLE", "TLS has buffers"): tls.test_a_connection_without_requests_rests_after_a_second,
    ("IDLE", ""): downstream.test_a_kept_connection_may_be_idle_between_requests,
    ("HEAD", ""): downstream.test_a_head_has_its_time_in_all,
    ("BUSY", "its route has a deadline"): (
        route_deadline.test_an_answer_that_makes_progress_is_broken_off
    ),
    ("BUSY", "output is stuck"): downstream.test_an_answer_may_be_read_in_small_pieces,
    ("BUSY", "a decision is waited for"): (
        fault.test_a_delayed_request_goes_on_when_its_time_is_over
    ),
    ("BUSY", "a body is waited for"): downstream.test_a_body_may_come_in_small_pieces,
    ("BUSY", "a handler has not answered"): (
        upcall_time.test_a_handler_has_the_routes_timeout_to_begin_its_answer
    ),
    ("TUNNEL", "output is stuck"): downstream.test_a_tunnels_reader_may_be_slow,
    ("LINGER", ""): downstream.test_what_follows_a_last_answer_is_read_off_for_two_seconds,
}
UPSTREAM = {
    ("CONNECT", ""): upstream.test_a_connection_that_is_not_made,
    ("SEND", "the request is not all taken"): upstream.test_a_target_may_read_in_small_pieces,
    ("SEND", ""): upstream.test_the_first_byte_is_due_from_the_requests_last,
    ("BODY", ""): upstream.test_an_answer_may_come_in_small_pieces,
    ("TUNNEL", ""): upstream.test_a_tunnel_lives_while_either_side_speaks,
    ("TUNNEL", "the target has ended"): tunnel.test_the_side_that_is_left_has_the_idle_time,
    ("POOLED", "TLS has buffers"): failures.test_a_pooled_connection_rests_after_a_second,
    ("POOLED", ""): upstream.test_a_pooled_connection_is_kept_while_it_is_used,
}


def test_every_row_has_its_tests() -> None:
    assert [row[:2] for row in client_side.ROWS] == list(DOWNSTREAM)
    assert [row[:2] for row in upstream_side.ROWS] == list(UPSTREAM)


def test_rows_say_what_they_do() -> None:
    for _, _, deadline, starts, _, passes in (*client_side.ROWS, *upstream_side.ROWS):
        assert all((deadline, starts, passes))
