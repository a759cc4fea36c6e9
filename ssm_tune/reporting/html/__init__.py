"""The HTML report: one file that works in a browser without a network."""
