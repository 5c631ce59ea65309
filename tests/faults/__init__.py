"""Kill it, freeze it, race it. `make test` runs a seeded tenth; PREFS_FAULTS=full runs it all."""
