"""Rendered people, clips with exact ground truth and stand-in models: the demo and the tests' world."""
