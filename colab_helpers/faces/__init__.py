"""Finding, choosing and changing faces."""
