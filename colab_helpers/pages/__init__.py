"""What people look at: the report of a run, its results in a notebook, and how it stands while it runs."""
