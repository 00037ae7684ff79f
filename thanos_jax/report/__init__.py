"""Numbers and pictures of a run: plots.py draws, html.py writes one file that holds all."""
