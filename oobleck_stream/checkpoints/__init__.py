"""Loads checkpoints in steps. Each step validates its input.

`opening` opens a container (a file or a folder) of named tensors. `names` maps the names to
canonical names. `folding` folds the tensors into packed parameters.
"""
