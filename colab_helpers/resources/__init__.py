"""Samples of CPU, memory and GPU use, the bottleneck they show, and waiting when RAM runs short."""
