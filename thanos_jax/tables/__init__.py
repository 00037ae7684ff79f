"""Tables of the papers: what is run for each, and what comes of it."""
