"""A keyed route with a rate limit, and the same route paid: FastGate beside itself.

Both have a consumer of an account, whose key was issued by the control API; the paid one differs by
the route's price alone, and by the money in the account's wallet. So every request of it is held,
captured, and taken into the ledger.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from benchmarks.compare.gateway import FastGate
from benchmarks.compare.processes import Tree
from benchmarks.compare.subjects import NotServing, Setup

PRICE = 10  # micro-units a request: 0.00001 USD
PLENTY = 1_000_000_000  # micro-units: 1,000 USD, more than any run can spend
MICROS = 1_000_000
PATIENCE = 120.0  # seconds: a ledger that is behind may take long
PAUSES = 0.75, 2.0  # seconds before a question, doubled from the first to the last


@dataclass(frozen=True)
class Books:
    """What the gateway says of money."""

    captured: int  # micro-units charged to the account, in the ledger
    requests: int  # that makes, at PRICE


class Keyed(FastGate):
    """FastGate with one keyed, rate-limited route; with a price, if `paid`."""

    def __init__(self, *, paid: bool) -> None:
        super().__init__()
        self.paid = paid
        self.name = "fastgate-paid" if paid else "fastgate-limited"

    @property
    def description(self) -> str:
        if self.paid:
            return (
                "FastGate: as fastgate-limited, and each request is paid from a wallet: held, "
                "captured, in the ledger (SQLite)"
            )
        return "FastGate: key auth and a rate limit by consumer; access log off"

    def document(self, setup: Setup) -> dict[str, Any]:
        """Plain, but for the route's key and limit, and its price."""
        document = super().document(setup)
        (route,) = document["routes"]
        route |= {
            "auth": {"api_key": {"header": "X-Api-Key"}},
            "limits": [{"by": ["consumer"], "rate": f"{setup.rate}/s", "burst": setup.burst}],
        }
        if self.paid:
            route["price"] = f"0.{PRICE:06d} USD"
        return document

    def key(self, tree: Tree, setup: Setup) -> str:
        """That of a consumer which is made for it, with money where requests are paid."""
        api = ControlApi(setup)
        api.open(tree, self.start_patience, PLENTY if self.paid else 0)
        return api.key


class ControlApi:
    """The control API of a running gateway, as far as it is needed here."""

    def __init__(self, setup: Setup) -> None:
        self._base = f"http://127.0.0.1:{setup.spare}"
        self._token = setup.folder / ".fastgate" / "admin-token"
        self._noted = setup.folder / "customer.json"
        self.account = self.key = ""
        if self._noted.exists():
            known = json.loads(self._noted.read_text())
            self.account, self.key = known["account"], known["key"]

    def open(self, tree: Tree, patience: float, micros: int) -> None:
        """Waits for the API and makes an account with a consumer, a key, and so much money.

        Raises NotServing.
        """
        end = time.monotonic() + patience
        while not self.account:
            if not tree.alive() or time.monotonic() > end:
                raise NotServing(f"no control API: {tree.last_words()}")
            try:
                self.account = self.ask("/v1/accounts", {"name": "bench"})["id"]
            except (OSError, ValueError):  # the store comes up after the rest
                time.sleep(0.02)
        consumer = self.ask("/v1/consumers", {"name": "bench", "account": self.account})["id"]
        self.key = self.ask(f"/v1/consumers/{consumer}/credentials", {})["key"]
        self._noted.write_text(json.dumps({"account": self.account, "key": self.key}))
        if micros:
            amount = f"{micros // MICROS}.{micros % MICROS:06d} USD"
            self.ask(
                f"/v1/accounts/{self.account}/credits", {"amount": amount, "reference": "bench"}
            )

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """GET, or POST with a body. Raises OSError (urllib's are), ValueError."""
        request = urllib.request.Request(  # loopback, our own
            self._base + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {self._token.read_text().strip()}",
                "Content-Type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def settle(self) -> None:
        """Waits until all usage is in the ledger. Raises NotServing when it takes too long.

        Each question is work for the gateway that is measured: few are asked.
        """
        end = time.monotonic() + PATIENCE
        pause, longest = PAUSES
        while True:
            time.sleep(pause)
            pause = min(2 * pause, longest)
            found = self.ask("/v1/ledger/pipeline")
            if not (found["waiting"] or found["spooled"] or found["open_holds"]):
                return
            if time.monotonic() > end:
                raise NotServing(f"usage is not in the ledger after {PATIENCE:g} s: {found}")

    def books(self) -> Books:
        """What the ledger says. Raises OSError (urllib's are), ValueError."""
        (wallet,) = self.ask(f"/v1/accounts/{self.account}/wallets")["items"]
        captured = int(wallet["captured"])
        return Books(captured, captured // PRICE)
