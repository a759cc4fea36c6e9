"""Many runs: sweep files, their status, the worker process, hyperparameter search."""
