"""The benchmarks: examples in, scores out. Nothing here needs torch, so stored predictions score anywhere."""
