"""Consent, content, marks."""
