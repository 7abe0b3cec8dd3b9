"""The compiled configuration: an immutable image that workers map, and finding routes in it."""
