"""FastGate: a payment-aware API and AI gateway."""

__version__ = "0.1.0"
