"""The audit: proves that the books are complete and agree with shared memory, with payments and
invoices, and with what payment providers report. It reads everything and changes nothing.
"""
