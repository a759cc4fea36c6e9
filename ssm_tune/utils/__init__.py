"""Errors, files, processes, text and progress: what every room uses."""
