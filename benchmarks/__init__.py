"""Timings of kernels, training steps and decoding: ``python -m benchmarks scan|step|generate|cpu``, from a checkout.

None of this is part of the installed package.
"""
