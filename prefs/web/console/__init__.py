"""/staff: the console of a brand's people."""
