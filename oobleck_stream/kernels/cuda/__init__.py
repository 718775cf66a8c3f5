"""The kernels for CUDA, on the same tables and in the same order of arithmetic as the CPU's."""


class NoCuda(RuntimeError):  # noqa: N818
    """CUDA can't be used here; the message says in one line what is missing."""
