"""Payment providers: who takes the money, behind one protocol.

```
base         the protocol, its records, exact conversion of money
manual       an operator credits a wallet, with a reference
stripe       Stripe by its official library (extra `stripe`)
breaker      a circuit breaker for each provider
chain        several providers in order; recorded, bounded grace while all are down
webhooks_in  news from providers: verified, kept, resolved, applied once
reconcile    what webhooks missed
```

Importing this package imports none of them.
"""
