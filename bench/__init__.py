"""Figures: ours and the floor they are held against, alternating in one run."""
