"""Consent, content check, and signed marks on results."""
