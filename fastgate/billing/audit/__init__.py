"""The audit: proof that the books are whole and agree with shared memory, with payments and
invoices, and with what payment providers say they hold. It reads everything and changes nothing.
"""
