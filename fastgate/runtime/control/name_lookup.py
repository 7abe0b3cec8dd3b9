"""One lookup of a name: in /etc/hosts, then at the name servers, then by the operating system.

    host, port ── /etc/hosts ── A, else AAAA ─────────── (no servers configured) getaddrinfo
    name, 0    ── SRV ── of each host in it: as above, with the record's port

The name servers and search domains are those of /etc/resolv.conf, which is read again when it
changes, or those of `dns.servers`. getaddrinfo knows what else this machine is told to ask, such as
mDNS; without any name server it is asked at once. dnspython is imported, in a thread, for the first
name that needs it (docs/decisions/0020-dns.md).
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from typing import Any, NamedTuple

from fastgate.config.rendering import Address, Found, ServiceAddress, preferred
from fastgate.imports import import_late
from fastgate.model.gateway import Dns

HOSTS, RESOLV = "/etc/hosts", "/etc/resolv.conf"


class NotFound(OSError):
    """The name does not exist, or has no address."""


class Answer(NamedTuple):
    """What a name stands for now."""

    found: list[Found]
    ttl: float | None
    """Seconds; None: it was not said."""


async def system_lookup(host: str, port: int) -> list[Address]:
    """Ask the system's resolver. Raises OSError if it has no answer."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None)):
            raise NotFound(str(error)) from error
        raise
    return [(family, sockaddr) for family, _, _, _, sockaddr in found]


def with_port(text: str, port: int) -> Address:
    """An IP address in the form of getaddrinfo."""
    if ":" in text:
        return socket.AF_INET6, (text, port, 0, 0)
    return socket.AF_INET, (text, port)


class HostsFile:
    """The addresses in /etc/hosts, which is read again when it changes."""

    def __init__(self, path: str = HOSTS) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._known: dict[str, list[str]] = {}

    def addresses(self, host: str) -> list[str]:
        """Of a name in lower case; empty: it is not there."""
        stamp = stamp_of(self._path)
        if stamp != self._stamp:
            self._stamp, self._known = stamp, self._read()
        return self._known.get(host, [])

    def _read(self) -> dict[str, list[str]]:
        known: dict[str, list[str]] = {}
        try:
            with open(self._path, encoding="utf-8", errors="replace") as file:
                lines = file.readlines()
        except OSError:
            return known
        for line in lines:
            address, *names = line.partition("#")[0].split() or [""]
            try:
                text = str(ipaddress.ip_address(address))
            except ValueError:
                continue
            for name in names:
                known.setdefault(name.lower(), []).append(text)
        return known


def stamp_of(path: str) -> tuple[int, int, int] | None:
    """What changes when a file does; None: there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class NameLookup:
    """Looks names up as `dns` says."""

    def __init__(self, *, hosts: str = HOSTS, resolv: str = RESOLV) -> None:
        self._dns = Dns()
        self._hosts = HostsFile(hosts)
        self._resolv = resolv
        self._stamp: object = None
        self._servers: Any = None
        self._built = False
        self._building = asyncio.Lock()

    def configure(self, dns: Dns) -> None:
        """From the next lookup on."""
        if dns != self._dns:
            self._dns, self._built = dns, False

    async def __call__(self, host: str, port: int) -> Answer:
        """The addresses of a host, each with this port; port 0: those of its SRV records.

        Raises NotFound, or OSError if there is no answer.
        """
        try:
            async with asyncio.timeout(self._dns.timeout.seconds):
                return await (self._host(host, port) if port else self._service(host))
        except TimeoutError:
            raise OSError(f"no answer within {self._dns.timeout}") from None

    async def _host(self, host: str, port: int) -> Answer:
        if local := self._hosts.addresses(host):
            return Answer([with_port(text, port) for text in local], None)
        if host == "localhost" or host.endswith(".localhost"):
            return Answer([*await system_lookup(host, port)], None)
        servers = await self._name_servers()
        if servers is None:
            return Answer([*await system_lookup(host, port)], None)
        try:
            try:
                texts, ttl = await self._ask(servers, host, "A")
            except NotFound:
                texts, ttl = await self._ask(servers, host, "AAAA")
        except NotFound:
            if self._dns.servers:
                raise
            return Answer([*await system_lookup(host, port)], None)
        return Answer([with_port(text, port) for text in texts], ttl)

    async def _service(self, name: str) -> Answer:
        servers = await self._name_servers()
        if servers is None:
            raise OSError("there is no name server to ask for SRV records")
        records, ttl = await self._ask(servers, name, "SRV")
        found: list[Found] = []
        for record in records:
            priority, weight, port, host = record.split()
            host = host.rstrip(".").lower()
            if not host:
                continue  # "." says that there is no such service
            try:
                answer = await self._host(host, int(port))
            except NotFound:
                continue
            plain = [one for one in answer.found if not isinstance(one, ServiceAddress)]
            found += [
                ServiceAddress(family, address, host, int(priority), int(weight))
                for family, address in preferred(plain)
            ]
            ttl = ttl if answer.ttl is None else min(ttl, answer.ttl)
        if not found:
            raise NotFound("no host of its SRV records has an address")
        return Answer(found, ttl)

    async def _ask(self, servers: Any, name: str, kind: str) -> tuple[list[str], float]:
        answer: tuple[list[str], float] | None = await servers.ask(name, kind)
        if answer is None:
            raise NotFound(f"the name servers know no {kind} record of it")
        return answer

    async def _name_servers(self) -> Any:
        """The `NameServers` to ask; None: there are none."""
        async with self._building:
            stamp = None if self._dns.servers else stamp_of(self._resolv)
            if not self._built or stamp != self._stamp:
                self._stamp, self._built = stamp, True
                module = await import_late("fastgate.runtime.control.name_servers")
                made = await asyncio.to_thread(module.NameServers, self._dns, self._resolv)
                self._servers = made if made.any else None
            return self._servers
