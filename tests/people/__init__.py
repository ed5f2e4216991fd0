"""Rendered people with exact ground truth, and networks trained on them, for tests and benchmarks."""
