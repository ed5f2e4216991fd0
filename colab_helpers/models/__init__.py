"""Sessions: where networks run."""
