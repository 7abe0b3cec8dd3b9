"""url_sample: the URLs that routes build, without a connection."""
