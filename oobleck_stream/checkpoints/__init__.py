"""Checkpoint loading, in steps that each validate their input.

A container (file or folder) has named tensors (`opening`), which are mapped to canonical names
(`names`) and folded into packed parameters (`folding`).
"""

from oobleck_stream.errors import CheckpointError

__all__ = ["CheckpointError"]
