"""The report of a run: plots.py draws its pictures, html.py writes them into one HTML file."""
