"""What tests of charging share: a segment with accounts, a paid route, and its callers."""

from __future__ import annotations

import orjson
from enginekit import Backend, Plane, Reply

from fastgate._core.money.money_map import MoneyMap
from fastgate._core.money.wallet import Accounts
from fastgate._core.shared.segment import Segment
from fastgate._core.snapshot.snapshot import stable_hash

ANN, BOB = 3, 4
KEYS = {"ann-key": "ann", "bob-key": "bob", "cy-key": "cy"}


class SharedMoney:
    """A segment with accounts, and the money map that belongs to it."""

    def __init__(self) -> None:
        self.segment = Segment.create(1, log_records=256)
        self.money = MoneyMap.create(None, 1)
        self.money.bind(self.segment)
        self.money.begin(0)
        self.accounts = Accounts(self.segment, self.money)
        self.accounts.put(ANN, 100 + ANN, ["USD"])
        self.accounts.put(BOB, 100 + BOB, ["EUR", "USD"])

    def balance(self, slot: int = ANN) -> int:
        return self.accounts.balance(slot, "USD")

    def records(self) -> list[tuple[int, int, int]]:
        """(amount, status, flags) of what was published, and it is taken out."""
        records, position = self.money.drain(0)
        self.money.commit(0, position)
        return [(each.amount, each.status, each.flags) for each in records]


def config(backend: Backend | None, **route: object) -> dict[str, object]:
    upstream = {"name": "u", "targets": [backend.url if backend else "http://127.0.0.1:1"]}
    return {
        "upstreams": [upstream],
        "services": [{"name": "s", "upstream": "u", "retries": {"attempts": 1}}],
        "routes": [
            {
                "name": "r",
                "path": "/{rest*}",
                "service": "s",
                "auth": {"api_key": {"header": "X-Api-Key"}},
                "price": "0.25 USD",
                **route,
            }
        ],
        "plans": [
            {
                "name": "tiered",
                "price": {
                    "tiers": [
                        {"up_to": 2, "price": "0 USD"},
                        {"up_to": 4, "price": "0.5 USD"},
                        {"price": "0.1 USD"},
                    ]
                },
            },
            {"name": "flat-rate", "price": {"per_request": "0.01 USD"}},
        ],
        "consumers": [{"name": "ann"}, {"name": "bob", "plan": "tiered"}, {"name": "cy"}],
    }


def plane(shared: SharedMoney, document: dict[str, object], **more: object) -> Plane:
    return Plane(
        document,
        keys=KEYS,
        segment=shared.segment,
        money=shared.money,
        accounts={"ann": ANN, "bob": BOB},
        **more,
    )


async def call(p: Plane, path: str = "/200", key: str = "ann-key") -> Reply:
    return await p.get(path, headers={"X-Api-Key": key})


def reason(reply: Reply) -> str:
    return orjson.loads(reply.body)["reason"]


def metered(**route: object) -> dict[str, object]:
    """A handler's route; ann pays 3 USD for a million tokens, ten free, and 0.01 USD a request."""
    document = config(None, service=None, handler="test:handler", price=None, **route)
    document["routes"][0] = {k: v for k, v in document["routes"][0].items() if v is not None}
    tokens = {"meter": "tokens", "price": "3 USD", "per": 1_000_000, "included": 10}
    pages = {"meter": "pages", "price": "0.5 USD"}
    document["plans"] = [
        {"name": "units", "price": {"per_request": "0.01 USD", "per_unit": [tokens, pages]}},
        {"name": "unpriced"},
        {"name": "only-units", "price": {"per_unit": [tokens]}},
    ]
    document["consumers"] = [{"name": "ann", "plan": "units"}, {"name": "bob", "plan": "unpriced"}]
    return document


def uses(shared: SharedMoney) -> list[tuple[str, int, int, int]]:
    """(meter, units, amount, flags) of the usage records, and they are taken out."""
    records, position = shared.money.drain(0)
    shared.money.commit(0, position)
    names = {0: "", **{stable_hash(name): name for name in ("tokens", "pages")}}
    return sorted((names[each.meter], each.units, each.amount, each.flags) for each in records)
