"""Who may call: consumers and their keys, in the store, in memory, and in the workers' index.

The form of keys is in `fastgate.model.keys`; tokens of the control API are in `fastgate.api`.
"""
