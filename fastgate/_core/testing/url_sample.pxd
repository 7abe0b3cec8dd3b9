"""url_sample: URLs that routes make, without a connection."""
