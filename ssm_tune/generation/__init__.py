"""Greedy and beam search, continuous batching, and the predictions of a whole split."""
