"""Reproducible benchmarks; compare figures within one run, not across machines."""
