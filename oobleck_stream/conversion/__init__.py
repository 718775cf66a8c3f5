"""Conversion of checkpoints from one container into another, tensor by tensor."""
