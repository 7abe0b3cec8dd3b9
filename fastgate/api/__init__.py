"""The control API: HTTP for operators and programs, on its own listener.

```
app          create_app: puts everything together
ports        what the API needs of the control process
context      what every handler gets
roles        who may do what: one table
auth         bearer tokens → principals
problems     errors as problem+json: one table
exceptions   exceptions of handlers → problems
probes       health and metrics, answered before all the rest is imported
bodies       request bodies, strictly; If-Match, pages and other query members
idempotent   Idempotency-Key: a repeated write is done once
describe     what a handler takes and gives, declared beside it
openapi      the OpenAPI 3.1 document made of those declarations
docs         the same as a page, with nothing loaded from elsewhere
health, config, resources, parties, credentials, tokens, operation        the handlers
```

Importing this package imports nothing; `probes`, `auth` and `problems` import little more than the
store's tables; `fastgate.api.app` imports Litestar.
"""
