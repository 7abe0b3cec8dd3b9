"""The store: accounts, consumers, credentials, revisions, tokens; SQLite or PostgreSQL.

Nothing in the request path reads it. It may be down when the gateway starts, or become unavailable
and return. In that time, operations that need it raise `fastgate.errors.StoreError`; everything
else works.

```
connection   SQLAlchemy's connections for asyncio, without its ORM
engine       Store: connects, migrates, comes back by itself; read() and write() transactions
tables       the tables, once; `migrations/` builds them with Alembic
parties      accounts, consumers, credentials
history      revisions of the configuration
tokens       bearer tokens of the control API
ledger       entries, postings, wallets' sums
usage        usage records, days, how far the rings were read
slots        the accounts' rows in shared memory
idempotency  answers kept for repeated writes
cache        the local file of credential hashes that keeps traffic going without the store
ids, pages   sortable ids; cursors
```

Importing this package imports nothing: SQLAlchemy costs about 15 MiB and a quarter of a second,
which the gateway spends only after it serves.
"""
