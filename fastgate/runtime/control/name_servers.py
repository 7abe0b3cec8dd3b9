"""Questions to name servers, with dnspython. Imported late: see `name_lookup`."""

from __future__ import annotations

import dns._asyncio_backend
import dns.rdtypes.ANY.CNAME
import dns.rdtypes.ANY.OPT
import dns.rdtypes.ANY.SOA
import dns.rdtypes.IN.A
import dns.rdtypes.IN.AAAA
import dns.rdtypes.IN.SRV  # noqa: F401  what questions need, and would otherwise import themselves
from dns.asyncresolver import Resolver
from dns.exception import DNSException
from dns.nameserver import Do53Nameserver
from dns.resolver import NXDOMAIN, NoAnswer

from fastgate.model.gateway import Dns


class NameServers:
    """The name servers of `dns`, or of a resolv.conf."""

    def __init__(self, settings: Dns, resolv: str) -> None:
        """Reads the file, if it is the one that counts."""
        self._search = not settings.servers
        self.resolver: Resolver | None
        try:
            self.resolver = resolver = Resolver(resolv, configure=self._search)
        except (DNSException, OSError):
            self.resolver = None
            return
        if settings.servers:
            resolver.nameservers = [
                Do53Nameserver(server.host, server.port) for server in settings.servers
            ]
        elif not resolver.nameservers:
            self.resolver = None
        resolver.cache = None
        resolver.lifetime = settings.timeout.seconds
        resolver.timeout = min(2.0, resolver.lifetime / 2)

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return self.resolver is not None

    async def ask(self, name: str, kind: str) -> tuple[list[str], float] | None:
        """The records of a kind as texts, and for how many seconds they are good; None: there are
        none. Raises OSError if there is no answer."""
        assert self.resolver is not None
        try:
            answer = await self.resolver.resolve(name, kind, search=self._search)
        except (NXDOMAIN, NoAnswer):
            return None
        except DNSException as error:
            raise OSError(str(error)) from error
        return [record.to_text() for record in answer], float(answer.chaining_result.minimum_ttl)
