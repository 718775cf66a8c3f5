"""Checkpoints: containers -> named tensors -> canonical names -> parameters, checked on the way."""

from oobleck_stream.errors import CheckpointError

__all__ = ["CheckpointError"]
