"""metering: units of meters that a handler reports, held for and charged by the caller's plan.

What a request uses beyond itself (tokens, pages, bytes) only its handler knows, and often only at
the end. So it names the maximum first, which is held at the plan's price for so many, and then what it was:

    hold_units("tokens", 4000)     units_most: held, beside the request's own price      or PaymentRefused
    use_units("tokens", 700)       price so far: due, should the worker be killed
    use_units("tokens", 112)
    the handler returns            812 are counted in the period, their price is captured, a usage
                                   record with the meter is published; the rest is given back

Reported is owed, up to what is held, also by a client that has left. What was reported beyond that is
in the usage record and in metrics (`beyond_micros`), and the operator's loss. A handler that fails releases
them, as all that fails on our side costs nothing. The units of a period are counted by who pays, in the same cells as
quotas, when they are captured: one exchange says how many came before them, so that the charges of
a period add up to the price of its units, to the micro-unit, over all workers.

Prices: meters.py, which is Python: this is a handler's side, not the proxied path.
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
"""Units of a meter that are held for, and recorded, of one request: more than any uses."""


cdef class MeterUse:
    """One meter in one exchange: what is held for it, and what was used."""

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
        # No more than was refused: what is held meanwhile by others does not count as room.
        e.units_fit = min(max(e.money_balance, 0) * rate.per // rate.micros, self.most)
        e.units_asked = self.most
        e.meter_len = <uint8_t>len(name)
        memcpy(e.meter, <const char *>name, len(name))
        return e.units_fit

    cdef int use(self, core *c, exchange *e, uint64_t units) except -1:
        """Further units were used: owed, up to what is held for. What goes beyond is counted as well."""
        self.units = min(UNITS_MOST, self.units + min(UNITS_MOST, units))
        if self.at.hold is not NULL:
            before = units_counted(c, e, self.price.counted_under, <uint8_t>self.price.period)
            hold_due(self.at.hold, min(units_price(self.price.rate, before, self.units), self.at.hold.held))
        return 0

    cdef int capture(self, core *c, exchange *e) except -1:
        """Charge for what was used, at most what is held; the rest of that is given back."""
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
        """Nothing is charged, and there is no usage record."""
        units_release(c, e, &self.at)
        return 0


cdef beyond(core *c, exchange *e, MeterUse use, micros):
    """More was used than was held for: the operator's loss, which metrics and the log show."""
    c.counters.beyond_micros += <uint64_t>min(micros, HELD_MOST)
    log.warning(
        "request %s: its handler reported %d units of %s and had held for %d; %d micro-units of %s are not charged",
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
            f"no plan prices units of {meter!r} (plans[].price.per_unit); meters that are priced: {known}")
    if most < 1:
        raise ValueError(f"{most} units of {meter!r}: give the most that the request can use, 1 or more")
    use = MeterUse.__new__(MeterUse)
    use.meter = meter
    use.most = min(most, UNITS_MOST)
    use.price = tariff.price(e.consumer.plan if e.has_consumer else NONE32, meter)
    memset(&use.at, 0, sizeof(use.at))
    use.at.meter = identity
    return use
