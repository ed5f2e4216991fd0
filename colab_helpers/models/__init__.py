"""Models: what there is, how it gets here verified, and where it runs."""
