"""Properties of whole runs: the same bytes, holes, restarts, formats."""
