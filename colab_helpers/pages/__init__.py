"""HTML and text views: the report of a run, its results in a notebook, and its live status."""
