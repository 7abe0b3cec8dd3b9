"""Payment providers: who takes the money, behind one protocol.

```
base           the protocol, its records, exact conversion of money
manual         an operator credits a wallet, with a reference
stripe         Stripe by its official library (extra `stripe`)
  stripe_http    how the library reaches it
  stripe_objects its objects as our records: tables
  stripe_events  events → facts, fetched again
breaker        a circuit breaker for each provider
chain          several providers in order; a charge happens once
grace          recorded, bounded service while all are down
webhooks_in    events from providers: verified, kept, resolved, applied once
reconcile      events that webhooks missed
provider_poller  the regular round
refunds        money back through the provider that took it
books          what all this needs of the ledger, and the names of its entries
```

Importing this package imports none of them.
"""
