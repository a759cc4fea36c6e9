"""Mamba, its checkpoints and tokenizers, and what a method may hand to a block."""
