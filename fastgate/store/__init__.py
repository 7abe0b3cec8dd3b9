"""The store: accounts, consumers, credentials, revisions, tokens; SQLite or PostgreSQL.

Nothing in the request path reads it. It may be down when the gateway starts, or become unavailable
and return. In that time, operations that need it raise `fastgate.errors.StoreError`; everything
else works.

```
connection   SQLAlchemy's connections for asyncio, without its ORM
engine       Store: connects, migrates, reconnects; read() and write() transactions
tables       the tables; `migrations/` creates them with Alembic
parties      accounts, consumers, credentials
history      revisions of the configuration
tokens       bearer tokens of the control API
ledger       entries, postings, totals of wallets
usage        usage records and daily totals
slots        the accounts' rows in shared memory
idempotency  stored answers for repeated writes
cache        the local file of credential hashes, for traffic while the store is down
ids, pages   sortable ids; cursors
```

Importing this package imports nothing: SQLAlchemy costs about 15 MiB and a quarter of a second,
which the gateway spends only after it serves.
"""
