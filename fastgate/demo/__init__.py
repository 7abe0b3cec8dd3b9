"""The demonstration of payments: simulates everything outside the gateway, on loopback.

    webserver   the HTTP server that the others use
    demopay     a payment provider with a card page, webhooks, saved cards
    provider    the gateway's client for it: a payment provider like any other
    x402_facilitator    a facilitator without a chain, and a wallet for it
    mailsink    a mail server that keeps received mail
    environment       the configuration, and the gateway in a separate process
    tour        what a customer does and sees, step by step

Only a gateway that was started by `fastgate demo` can use this: the provider is registered by a
plugin's metadata in the demonstration's own folder.
"""
