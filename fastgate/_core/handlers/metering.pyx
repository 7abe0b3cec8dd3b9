"""metering: units of meters that a handler reports: held, and charged by the caller's plan.

Only the handler knows what a request uses (tokens, pages, bytes), and often only at the end. So it first
reserves the maximum, which is held at the plan's price, and then reports the actual use:

    hold_units("tokens", 4000)     units_most: held, besides the request's own price      or PaymentRefused
    use_units("tokens", 700)       the price so far: owed, even if the worker is killed
    use_units("tokens", 112)
    the handler returns            812 are counted in the period, their price is captured, and a usage
                                   record with the meter is published; the rest is given back

Reported units are owed, up to what is held, even if the client has left. Units beyond that are in the usage
record and in metrics (`beyond_micros`), and are the operator's loss. If the handler fails, the hold is
released: a failure on our side costs the caller nothing. The units of a period are counted by payer, in the
same cells as quotas, when they are captured. Each exchange learns how many came before its own, so that the
charges of a period add up, over all workers, to the exact price of its units.

Prices: meters.py. It is Python, since only handlers need it, not the proxied path.
"""
from libc.stdint cimport uint32_t, uint8_t
from libc.string cimport memcpy, memset

from fastgate._core.handlers.calling cimport request_id_of
from fastgate._core.exchange.charging cimport units_capture, units_count, units_counted, units_open, units_release
from fastgate._core.money.holds cimport MONEY_MOST, hold_due
from fastgate._core.snapshot.snapshot cimport NONE32

import logging

from fastgate._core.handlers.errors import PaymentRefused
from fastgate._core.snapshot.meters import Tariff, units_most, units_price

log = logging.getLogger("fastgate.handler")

HELD_MOST = <int64_t>MONEY_MOST

cdef uint64_t UNITS_MOST = <uint64_t>1 << 40
"""How many units of a meter may be held and recorded for one request: more than any request uses."""


cdef class MeterUse:
    """One meter in one exchange: what is held, and what was used."""

    cdef int64_t hold(self, core *c, exchange *e) except -1:
        """Hold the most that it can cost; returns that. Raises PaymentRefused."""
        cdef int64_t micros
        cdef bytes code
        cdef int reason
        if self.price is None:
            return 0
        most = units_most(self.price.rate, self.most)
        if most == 0:
            return 0
        code = self.price.currency.encode("ascii")
        micros = min(most, HELD_MOST + 1)
        reason = units_open(c, e, &self.at, micros, code[0] | <uint32_t>code[1] << 8 | <uint32_t>code[2] << 16)
        if reason != 0:
            raise PaymentRefused(reason, e.money_balance, micros, self.refused(e))
        return micros

    cdef uint64_t refused(self, exchange *e) except? 0:
        """Note for the refusal how many units would fit into what is left; returns that."""
        cdef bytes name = self.meter.encode()[:sizeof(e.meter)]
        rate = self.price.rate
        # Never more than the number that was refused, even if others have released money since.
        e.units_fit = min(max(e.money_balance, 0) * rate.per // rate.micros, self.most)
        e.units_asked = self.most
        e.meter_len = <uint8_t>len(name)
        memcpy(e.meter, <const char *>name, len(name))
        return e.units_fit

    cdef int use(self, core *c, exchange *e, uint64_t units) except -1:
        """Count more used units: owed, up to what is held. Units beyond that are counted as well."""
        self.units = min(UNITS_MOST, self.units + min(UNITS_MOST, units))
        if self.at.hold is not NULL:
            before = units_counted(c, e, self.price.counted_under, <uint8_t>self.price.period)
            hold_due(self.at.hold, min(units_price(self.price.rate, before, self.units), self.at.hold.held))
        return 0

    cdef int capture(self, core *c, exchange *e) except -1:
        """Charge for what was used, at most what is held; the rest is given back."""
        cdef int64_t micros = 0
        if self.units == 0:
            return self.release(c, e)
        if self.price is not None and e.has_consumer:
            before = units_count(c, e, self.price.counted_under, <uint8_t>self.price.period, self.units)
            price = units_price(self.price.rate, before, self.units)
            if self.at.hold is not NULL:
                micros = min(price, self.at.hold.held)
            if price > micros:
                beyond(c, e, self, price - micros)
        units_capture(c, e, &self.at, micros, self.units)
        return 0

    cdef int release(self, core *c, exchange *e) except -1:
        """Charge nothing, and write no usage record."""
        units_release(c, e, &self.at)
        return 0


cdef beyond(core *c, exchange *e, MeterUse use, micros):
    """More was used than was held: the operator's loss, which metrics and the log show."""
    c.counters.beyond_micros += <uint64_t>min(micros, HELD_MOST)
    log.warning(
        "request %s: its handler reported %d units of %s and had held %d; %d micro-units of %s are not charged",
        request_id_of(e), use.units, use.meter, use.most, micros, use.price.currency)


cdef MeterUse meter_use(exchange *e, str meter, most):
    """The use of a meter by this exchange's caller; nothing is held yet. Raises ValueError."""
    cdef MeterUse use
    handlers = <list>e.ref.handlers
    tariff = handlers[0] if handlers and isinstance(handlers[0], Tariff) else None
    identity = None if tariff is None else tariff.meters.get(meter)
    if identity is None:
        known = ", ".join(tariff.meters) if tariff is not None else "none"
        raise ValueError(
            f"no plan prices units of {meter!r} (plans[].price.per_unit); priced meters: {known}")
    if most < 1:
        raise ValueError(f"{most} units of {meter!r}: give the most that the request can use, 1 or more")
    use = MeterUse.__new__(MeterUse)
    use.meter = meter
    use.most = min(most, UNITS_MOST)
    use.price = tariff.price(e.consumer.plan if e.has_consumer else NONE32, meter)
    memset(&use.at, 0, sizeof(use.at))
    use.at.meter = identity
    return use
