"""The CPU engine: kernels compiled by Numba, and the threads that run them."""
