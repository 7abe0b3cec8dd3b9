"""Invoices, receipts and credit notes, and the case of each invoice until it is settled."""
