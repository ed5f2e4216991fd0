"""Measurements anyone can repeat; ratios within one run are what counts."""
