"""The books: entries, wallets, and usage on its way into them.

Nothing here knows why money moves; that is for subscriptions, invoices and payments.
"""
