"""Sessions: one person's running commit, from the request to its end."""
