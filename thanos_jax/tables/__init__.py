"""Tables of the papers: their definitions, runs and results."""
