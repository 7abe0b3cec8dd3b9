"""What is wrong with a PROXY header: one text for each ProxyFault of proxy_header.pxd, by its
number. For the log: the operator of the gateway also runs the load balancer that sent it."""

from __future__ import annotations

PROXY_FAULT_TEXTS: tuple[str, ...] = (
    "",
    "the connection does not begin with a PROXY header",
    "its line is not PROXY, TCP4 or TCP6, two addresses and two ports",
    "its version is not 2, or its command is neither LOCAL nor PROXY",
    "it has an unknown kind of address",
    "it is too short for its addresses",
    "what follows its addresses is damaged",
    "its checksum is wrong",
    "it is too long: version 1 has at most 107 bytes, version 2 at most 4096",
    "the connection ended within it",
    "it did not come within `timeouts.handshake`",
)
