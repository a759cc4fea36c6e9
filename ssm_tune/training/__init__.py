"""Training: the trainer, one step and its CUDA graph, distribution, checkpoints, memory and sanity checks."""
