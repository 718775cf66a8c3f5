"""Checkpoints: containers -> named tensors -> canonical names -> parameters, checked on the way."""

from oobleck_stream.checkpoints.errors import CheckpointError

__all__ = ["CheckpointError"]
