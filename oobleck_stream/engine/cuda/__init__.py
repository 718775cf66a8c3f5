"""The CUDA engine: the same programs and the same order of arithmetic as on the CPU."""
