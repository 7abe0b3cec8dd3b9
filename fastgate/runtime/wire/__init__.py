"""The messages between the processes of one gateway, and their channels."""
