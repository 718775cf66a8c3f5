"""The CUDA engine: Numba kernels that execute the CPU's programs with bit-identical results."""
