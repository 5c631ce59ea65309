"""The demo: `run` starts it, `stage` is where it plays, `story` what happens; `systems` has one
file for each vendor."""
