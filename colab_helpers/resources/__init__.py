"""Memory: how much is used and how much may be held."""
