"""The books of the Stripe for tests: its balance, and the balance transactions that made it."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]


class StripeBooks:
    """What `stripekit.StripeKit` knows of money."""

    objects: dict[str, Object]
    settles = ""
    """The currency that payments are settled in; empty: their own."""
    rate = 1.0
    """How many of its coins one coin of a payment is."""

    def new(self, kind: str, **fields: Any) -> Object:
        """An object of the account."""
        raise NotImplementedError

    def moved(self, category: str, source: Object, amount: int, fee: int = 0) -> Object:
        """A balance transaction: coins of the source's currency, or of what it is settled in."""
        currency = self.settles or source["currency"]
        amount = round(amount * self.rate) if currency != source["currency"] else amount
        kinds = {"dispute": "adjustment", "dispute_reversal": "adjustment", "fee": "stripe_fee"}
        return self.new(
            "balance_transaction",
            type=kinds.get(category, category),
            reporting_category=category,
            source=source["id"],
            balance_type="payments",
            currency=currency,
            amount=amount,
            fee=fee,
            net=amount - fee,
            exchange_rate=self.rate if currency != source["currency"] else None,
            status="pending",
        )

    def pay_out(self, amount: int, currency: str) -> Object:
        """Coins go to the bank account. The balance transaction."""
        payout = self.new("payout", amount=amount, currency=currency, status="paid")
        return self.moved("payout", payout, -amount)

    def sell(self, amount: int, currency: str) -> Object:
        """A sale of the same Stripe account that is none of the gateway's. Its transaction."""
        intent = self.new("payment_intent", amount=amount, currency=currency, metadata={})
        charge = self.new(
            "charge",
            payment_intent=intent["id"],
            amount=amount,
            currency=currency,
            metadata={},
            paid=True,
        )
        intent |= {"status": "succeeded", "amount_received": amount, "latest_charge": charge["id"]}
        return self.moved("charge", charge, amount)

    def balance(self) -> Object:
        """Half of it is pending, the rest available."""
        sums: dict[str, int] = {}
        for item in self.objects.values():
            if item["object"] == "balance_transaction":
                sums[item["currency"]] = sums.get(item["currency"], 0) + item["net"]
        parts = [(code, amount // 2, amount - amount // 2) for code, amount in sums.items()]
        return {
            "object": "balance",
            "available": [{"amount": one, "currency": code} for code, one, _ in parts],
            "pending": [{"amount": rest, "currency": code} for code, _, rest in parts],
        }
