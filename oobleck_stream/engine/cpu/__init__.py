"""The CPU engine: Numba kernels, and the threads that run them."""
