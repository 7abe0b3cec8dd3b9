"""Payment providers, behind one protocol.

```
base           the protocol, its records, exact conversion of money
manual         an operator credits a wallet, with a reference
stripe         Stripe, through its official library (extra `stripe`)
  stripe_http    the library's HTTP client
  stripe_objects Stripe's objects → our records: tables
  stripe_events  events → facts, fetched again
breaker        a circuit breaker for each provider
chain          several providers in order; a charge happens once
grace          service on credit while all are down: recorded and limited
webhooks_in    events from providers: verified, stored, resolved, applied once
reconcile      events for which no webhook arrived
provider_poller  the periodic work
refunds        refunds, through the provider of the payment
books          the part of the ledger that payments need, and the names of their entries
```

Importing this package imports none of them.
"""
