"""The demonstration of payments: everything outside of the gateway, played on loopback.

    webserver   what the others are made with
    demopay     a payment provider with a card page, webhooks, saved cards
    provider    the gateway's side of it: a payment provider like any other
    x402_facilitator    a facilitator without a chain, and a wallet for it
    mailsink    a mail server that keeps what it gets
    environment       the configuration, and the gateway in a process of its own
    tour        what a customer does and sees, step by step

Nothing here is reached by a gateway that was not started by `fastgate demo`: the provider is
announced by a plugin's metadata in the demonstration's own folder.
"""
