"""Who may call: consumers and their keys, in the store, in memory, and in the workers' index.

How a key looks is in `fastgate.model.keys`; who may use the control API is in `fastgate.api`.
"""
