"""Money: what things cost, who has paid, and what happens when they have not.

Everything here is control plane: it runs in the control process, against the store, on an
injected clock. No request waits for it; what it decides reaches the data plane as balances,
limits and reasons in shared memory.
"""
