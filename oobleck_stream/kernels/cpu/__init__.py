"""Free functions on memory, compiled by Numba. They know nothing of models or streams."""
