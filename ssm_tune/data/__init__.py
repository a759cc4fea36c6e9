"""From a task's examples to batches: tokenization, the token cache, the choice of examples, the collator."""
