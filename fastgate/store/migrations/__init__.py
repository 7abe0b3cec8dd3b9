"""Alembic's migrations: `env.py` runs them, `versions/` holds one module a step.

A step is never changed once it was released; the next one changes what it made.
"""
