"""The Triton kernels of ``state_space_dual`` and its update, and their launches; imported only where they run."""
