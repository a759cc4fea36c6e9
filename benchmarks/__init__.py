"""Timings of kernels, training steps, decoding and sweeps: ``python -m benchmarks --help``, from a checkout.

None of this is part of the installed package.
"""
