"""The effective rules of a route, service or plan, including those of its policies.

- **Limits, quotas, concurrency** are combined: first those of the resource itself, then those of
  its policies, in order. The limits of a request are those of its route, its service and its
  consumer's plan, and all of them must allow it. A policy's limit has one count for all resources
  that use the policy (write `route` or `service` into `by` to count separately).
- **Addresses, CORS, body cap, validation**: only the nearest setting applies: the route's, then its
  policies' in order, then its service's (validation alone), then its service's policies', then the
  gateway's default policies'.
- **Header rules** are applied in order, the nearest last: the default policies, the service's
  policies, the route's policies, the route.
- **Default policies** are the gateway's, for all routes that do not opt out. One that the route or
  its service also names is used only at that nearer place.
- **Plans of a service**: those that the service names, and those that name the service. With none,
  the service is open to all consumers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from fastgate.model.gateway import Gateway, Maintenance, Plan, Policy, Route, Service, Size
from fastgate.model.policy import (
    Addresses,
    Concurrency,
    Cors,
    HeaderRules,
    Limit,
    Quota,
    Rules,
)
from fastgate.model.validation import Validate


class OwnedLimit(NamedTuple):
    """A limit with its identity across reloads."""

    owner: str
    """Kind and name of the owner: route:orders-read, policy:fair-use."""
    kind: Literal["rate", "quota", "concurrency"]
    position: int
    """The position among the owner's limits of this kind, from 0."""
    limit: Limit | Quota | Concurrency

    @property
    def key(self) -> str:
        """Stable and unique: owner, kind, and its name or, without one, its position."""
        return f"{self.owner}/{self.kind}/{self.limit.name or self.position}"


class Effective(NamedTuple):
    """The rules of a route, except the limits of its service and of plans."""

    limits: list[OwnedLimit]
    addresses: Addresses | None
    cors: Cors | None
    request_rules: list[HeaderRules]
    """In the order in which they are applied."""
    response_rules: list[HeaderRules]
    max_body: Size | None
    """None: the gateway's `caps.body`."""
    validate: Validate | None
    """None: requests are not validated."""


def own_limits(owner: str, rules: Rules) -> list[OwnedLimit]:
    """The limits of the resource itself."""
    return [
        *(OwnedLimit(owner, "rate", i, limit) for i, limit in enumerate(rules.limits)),
        *(OwnedLimit(owner, "quota", i, quota) for i, quota in enumerate(rules.quotas)),
        *(OwnedLimit(owner, "concurrency", i, c) for i, c in enumerate(rules.concurrency)),
    ]


class Resolver:
    """Resolves the rules of one document. Its references must be valid (`check.check`)."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.policies = {policy.name: policy for policy in gateway.policies}
        self.services = {service.name: service for service in gateway.services}
        self._plans: dict[str, list[str]] = {}
        for service in gateway.services:
            self._plans[service.name] = list(dict.fromkeys(service.plans))
        for plan in gateway.plans:
            for name in plan.services:
                named = self._plans.setdefault(name, [])
                if plan.name not in named:
                    named.append(plan.name)
        self._policy_limits = {
            policy.name: own_limits(f"policy:{policy.name}", policy) for policy in gateway.policies
        }

    def route(self, route: Route) -> Effective:
        """The rules of `route`."""
        mine = self._named(route.policies)
        service = self.services[route.service] if route.service is not None else None
        far = self._named(service.policies) if service is not None else []
        # A policy that the service also has must not count a request twice.
        theirs = set(service.policies) if service is not None else set()
        defaults = self.defaults(route)
        farthest = self._named(defaults)
        served = [] if service is None else [service]
        near: Sequence[Route | Policy] = [route, *mine, *far, *farthest]
        order = [policy.headers for policy in (*farthest, *far, *mine)] + [route.headers]
        empty = HeaderRules()
        own = [*(name for name in route.policies if name not in theirs), *defaults]
        return Effective(
            limits=self._limits(f"route:{route.name}", route, own),
            addresses=next((x.addresses for x in near if x.addresses is not None), None),
            cors=next((x.cors for x in near if x.cors is not None), None),
            request_rules=[h.request for h in order if h.request != empty],
            response_rules=[h.response for h in order if h.response != empty],
            max_body=next((x.max_body for x in near if x.max_body is not None), None),
            validate=_validation([route, *mine, *served, *far, *farthest]),
        )

    def maintenance(self, route: Route) -> Maintenance | None:
        """What closes a route for maintenance: its own switch before the gateway's."""
        if route.maintenance is not None and route.maintenance.enabled:
            return route.maintenance
        whole = self.gateway.maintenance
        closed = whole is not None and whole.enabled and route.name not in whole.except_
        return whole if closed else None

    def defaults(self, route: Route) -> list[str]:
        """The default policies of a route that are not named at a nearer place."""
        if not route.default_policies:
            return []
        named = set(route.policies)
        if route.service is not None:
            named.update(self.services[route.service].policies)
        return [name for name in self.gateway.default_policies if name not in named]

    def service_limits(self, service: Service) -> list[OwnedLimit]:
        """The limits of a service and its policies."""
        return self._limits(f"service:{service.name}", service, service.policies)

    def plan_limits(self, plan: Plan) -> list[OwnedLimit]:
        """The limits of a plan and its policies."""
        return self._limits(f"plan:{plan.name}", plan, plan.policies)

    def plans_of(self, service: str) -> list[str]:
        """Plans whose consumers may use the service; empty: every consumer may."""
        return self._plans[service]

    def _limits(self, owner: str, rules: Rules, policies: Iterable[str]) -> list[OwnedLimit]:
        found = own_limits(owner, rules)
        for name in dict.fromkeys(policies):
            found.extend(self._policy_limits[name])
        return found

    def _named(self, names: Iterable[str]) -> list[Policy]:
        return [self.policies[name] for name in dict.fromkeys(names)]


def _validation(near: Iterable[Route | Policy | Service]) -> Validate | None:
    """The nearest setting; None: there is none, or it turns validation off."""
    nearest = next((x.validate for x in near if x.validate is not None), None)
    return None if nearest is None or nearest.openapi is None else nearest
