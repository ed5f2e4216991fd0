"""Rendered people with exact truth, and networks trained on them: equipment of tests and benchmarks."""
