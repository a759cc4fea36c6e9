"""Scores of model outputs against references: pure functions on text, without torch."""
