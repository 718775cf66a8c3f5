"""The CUDA engine: Numba kernels that execute the same programs as the CPU, bit-identically."""
