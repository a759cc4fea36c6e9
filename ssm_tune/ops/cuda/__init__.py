"""Compiling CUDA C++ with NVRTC, launching kernels, device memory and CUDA graphs."""
