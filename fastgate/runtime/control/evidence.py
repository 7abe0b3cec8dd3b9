"""What a diagnosis looks at, from the parts of the control process."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fastgate._core.money.money_map import MoneyMap
from fastgate._core.shared.segment import Segment
from fastgate._core.snapshot.snapshot import Snapshot
from fastgate.identity.identity import Identity
from fastgate.imports import importing
from fastgate.model.gateway import Gateway
from fastgate.runtime.persist import StateDirectory

if TYPE_CHECKING:
    from fastgate.api.billing_api import BillingApi
    from fastgate.billing.diagnosis.evidence import Evidence


class EvidenceOf:
    """Makes the evidence, with the parts as they are at that moment. Imported on use: billing."""

    def __init__(
        self,
        segment: Segment,
        state: StateDirectory,
        identity: Identity,
        gateway: Callable[[], Gateway],
        snapshot: Callable[[], Snapshot | None],
    ) -> None:
        self._segment = segment
        self._state = state
        self._identity = identity
        self._gateway = gateway
        self._snapshot = snapshot

    def __call__(self, billing: BillingApi | None, money_map: MoneyMap | None) -> Evidence:
        with importing():
            from fastgate.billing.diagnosis.sources import MoneySources, Sources
            from fastgate.billing.x402 import claims
            from fastgate.billing.x402.refused_payments import RefusedPayments
            from fastgate.runtime.control.dry_runs import DryRuns

        money = None
        if billing is not None:
            money = MoneySources(
                subscriptions=billing.subscriptions,
                invoices=billing.invoices,
                providers=billing.providers,
                account=self._identity.parties.account,
                clock=billing.subscriptions.clock,
            )
        refused = RefusedPayments(self._state.path / claims.FOLDER)
        directory = self._identity.directory
        runs = DryRuns(self._segment, money_map, directory, self._snapshot)
        return Sources(directory, self._gateway, runs.decide, money, refused)
