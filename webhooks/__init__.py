"""One module a system: verify the raw bytes, tell what they say."""
