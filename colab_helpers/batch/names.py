"""Names of the files that a batch keeps beside its results."""

from __future__ import annotations

JOURNAL_NAME = "journal.jsonl"
STATUS_NAME = "status.json"
REPORT_NAME = "report.json"
HTML_REPORT_NAME = "report.html"
STOP_NAME = "STOP"
"""Whoever makes this file asks the batch to stop."""
WORK_NAME = ".work"
"""Folder of unfinished work."""
LOCK_NAME = ".colab_helpers.lock"
