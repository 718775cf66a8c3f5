"""What a program of a push is, and the kernels that run it."""
