"""Batches: planning, running and resuming work on many files, and reporting on it."""
