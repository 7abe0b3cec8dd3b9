"""Payment with the request itself, by x402: the wire format, the facilitator, and one execution
for each payment. Other ways of paying are in `fastgate.billing.payments`.
"""
