"""Many files, one report."""
