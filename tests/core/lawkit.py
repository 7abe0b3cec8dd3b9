"""The transports over which the tests of HTTP run: its law holds over TLS, however cut.

| transport | between the engine and its peers, clients and upstreams |
| --- | --- |
| `clear` | TCP |
| `tls` | TLS 1.3, records as they come |
| `records` | the first octets each in a record of its own, sent once the last was read |
| `octets` | records as they come; the first ones sent an octet at a time, once the last was read |

`TRANSPORTS` says which tests run over TLS. All of them run in clear, unchanged: `enginekit.Plane`
puts relays (`tlsrelaykit`) between itself and its peers.
"""

from __future__ import annotations

import copy
import re
from typing import Any

import tlskit
from certkit import Material
from keyringkit import authority_entry, keyring_of
from tlsrelaykit import Cuts, TlsRelay

from fastgate._core.tls.keyring import Keyring, UpstreamTls
from fastgate.config.targets import tls_id
from fastgate.model.gateway import UpstreamTls as Profile

CUTS = {
    "tls": Cuts(),
    "records": Cuts(record=1, wire=tlskit.one_by_one, most=300),
    "octets": Cuts(wire=tlskit.octets, most=300),
}
EVERY = ("clear", "tls", "records", "octets")
WHOLE = ("clear", "tls")
CLEAR = ("clear",)

TRANSPORTS = {
    # framing, and what is done with octets
    "test_cors": EVERY,
    "test_downstream": EVERY,
    "test_ejection_bodies": EVERY,
    "test_engine": EVERY,
    "test_engine_failover": EVERY,
    "test_engine_upstreams": EVERY,
    "test_forwarded": EVERY,
    "test_maintenance": WHOLE,
    "test_max_body": EVERY,
    "test_max_forwards": EVERY,
    "test_merge_slashes": EVERY,
    "test_redirect": EVERY,
    "test_rewrite_path": EVERY,
    "test_route_paths": EVERY,
    "test_streams": EVERY,
    "test_tunnel": EVERY,
    "test_upcall": EVERY,
    "test_upstream_host": EVERY,
    # what is done with whole requests, or takes its time
    "test_admission": WHOLE,
    "test_charging": WHOLE,
    "test_charging_refusals": WHOLE,
    "test_connection_limits": WHOLE,
    "test_downstream_deadlines": WHOLE,
    "test_fault": WHOLE,
    "test_limit_headers": WHOLE,
    "test_owed": WHOLE,
    "test_problem_bodies": WHOLE,
    "test_refusal": WHOLE,
    "test_retired": WHOLE,
    "test_upcall_time": WHOLE,
    "test_upstream_deadlines": WHOLE,
}
"""By module; others run in clear alone."""

SECURE = "says that the request came in clear"
HOST = "names the target, which is a relay over TLS"
FORK = "runs in a process of its own, where no relay is"
PROXY = "sends a PROXY header, which precedes TLS"
TAKEN = "depends on what the target has not read, and the relay has"
PIECES = "a peer takes each piece that it receives for a message"
EARLY = "counts on the whole message being there when its head is"
BUFFERS = "counts on what the kernel's buffers of one connection hold"
ROUND = "two events must come in one round of the engine; the relay passes them on in its own time"
DESCRIPTORS = "uses up the descriptors of the process, in which the relay is"
LATER = "counts on connections that the relay makes later than its clients do"
TIMER = "waits for a timer that TLS has no part in"

UNCUT = (PIECES, EARLY)

EXEMPT: dict[str, dict[str, str]] = {
    "test_connection_limits": {
        "test_each_announced_client_has_its_own": PROXY,
        "test_trusted_proxies_are_exempt": PROXY,
        "test_a_crowded_table_counts_no_further_addresses": PROXY,
    },
    "test_downstream_deadlines": {
        "test_an_answer_may_be_read_in_small_pieces": BUFFERS,
        "test_a_tunnels_reader_may_be_slow": BUFFERS,
        "test_what_the_kernel_holds_of_an_answer_is_read_in_its_time": BUFFERS,
        "test_a_client_that_does_not_read_is_logged_as_timed_out": TIMER,
        "test_readers_below_the_minimum_rate_are_let_go": TIMER,
        "test_senders_below_the_minimum_rate_are_refused_and_no_others": TIMER,
    },
    "test_engine": {
        "test_what_the_upstream_sees": HOST,
        "test_draining_serves_whoever_was_let_in": LATER,
        "test_a_reload_keeps_exchanges_in_flight_on_their_snapshot": EARLY,
        "test_static_answers": EARLY,
        "test_websockets_are_tunnelled": PIECES,
        "test_when_descriptors_run_out_clients_wait_and_nothing_is_lost": DESCRIPTORS,
        "test_a_body_below_the_minimum_rate_is_given_up": TIMER,
        "test_senders_that_are_too_slow_are_let_go": TIMER,
    },
    "test_engine_failover": {
        "test_a_pooled_connection_that_refuses_its_first_byte": FORK,
        "test_an_untouched_body_goes_to_the_next_after_a_reset": TAKEN,
        "test_a_stale_connection_costs_no_attempt": PIECES,
        "test_a_status_is_retried_where_asked_for": EARLY,
    },
    "test_forwarded": {"test_peers_on_unix_sockets_alone_can_be_trusted": SECURE},
    "test_redirect": {
        "test_requests_behind_it_are_served_in_order": EARLY,
        "test_where_it_leads": SECURE,
        "test_the_scheme_that_a_trusted_proxy_was_called_with": SECURE,
    },
    "test_refusal": {
        "test_a_browser_an_agent_and_a_program_get_what_they_read": SECURE,
        "test_links_begin_as_the_client_called_it_behind_a_trusted_proxy": SECURE,
    },
    "test_retired": {"test_tunnels_streams_and_downloads_keep_no_image": HOST},
    "test_upcall": {"test_forward_and_relay": HOST},
    "test_upcall_time": {"test_a_client_that_leaves_before_its_handler_began": ROUND},
    "test_upstream_deadlines": {"test_a_target_may_read_in_small_pieces": BUFFERS},
    "test_upstream_host": {"test_whose_host_is_sent": HOST},
}
"""Tests of those modules that run in clear alone, and why. With a reason of UNCUT: not cut."""

FINS: dict[str, set[str]] = {
    "test_downstream_deadlines": {
        "test_a_truncated_answer_does_not_look_whole_to_http_1_0",
    },
    "test_ejection_bodies": {
        "test_bodies_that_fail_eject_their_target",
        "test_a_whole_answer_between_them_starts_the_count_again",
        "test_a_status_that_counts_and_a_body_that_breaks_are_one_failure",
    },
    "test_retired": {"test_what_an_exchange_took_is_left_when_its_image_is_gone"},
    "test_engine_upstreams": {"test_a_truncated_answer_never_looks_complete"},
    "test_upcall": {"test_a_handler_that_fails_in_the_middle_breaks_off"},
}
"""Tests of answers whose framing says that something is missing: where TLS has no close_notify, the
client sees a FIN, as in clear. Elsewhere it sees a reset, so that no test takes that for an end."""


def transports(module: str, test: str) -> tuple[str, ...]:
    reason = EXEMPT.get(module, {}).get(test)
    if reason is not None:
        return WHOLE if reason in UNCUT else CLEAR
    return TRANSPORTS.get(module, CLEAR)


class TlsTransport:
    """An `enginekit.Transport`: relays for all connections, on both sides."""

    def __init__(self, material: Material, relay: TlsRelay) -> None:
        self.material, self.relay = material, relay
        self.leaf = material.leaf()
        self.client = tlskit.client_context(material.root, versions=("1.3", "1.3"))
        self.server = tlskit.server_context(self.leaf, versions=("1.3", "1.3"))
        self.behind_of: dict[str, str] = {}

    def keyring(self, listener: str) -> Keyring:
        return keyring_of(
            self.leaf,
            listener={"key": listener},
            authorities=[authority_entry(self.material.root)],
            upstreams=[UpstreamTls(id=tls_id(Profile()), authority=0)],
        )

    def front(self, port: int) -> int:
        return self.relay.encrypt(("127.0.0.1", port), self.client)

    def behind(self, config: dict[str, Any]) -> dict[str, Any]:
        config = copy.deepcopy(config)
        for upstream in config.get("upstreams", ()):
            urls = [each if isinstance(each, str) else each["url"] for each in upstream["targets"]]
            if not all(re.fullmatch(r"http://127\.0\.0\.1:\d+", url) for url in urls):
                continue
            upstream["targets"] = [
                self.secured(each) if isinstance(each, str) else {**each, "url": self.secured(url)}
                for each, url in zip(upstream["targets"], urls, strict=True)
            ]
        return config

    def secured(self, url: str) -> str:
        if url not in self.behind_of:
            to = ("127.0.0.1", int(url.rpartition(":")[2]))
            self.behind_of[url] = f"https://127.0.0.1:{self.relay.decrypt(to, self.server)}"
        return self.behind_of[url]
