"""Subscriptions: what an account has bought, for how long, its price, and the price of a change of
plan."""
