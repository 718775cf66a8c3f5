"""Comparison of a network with a reference: of the output only, or of every stage."""

from __future__ import annotations

from oobleck_stream.validation.check import Validation, check_stages
from oobleck_stream.validation.comparison import Comparison, compare, difference_over_time
from oobleck_stream.validation.stages import layer_outputs, means_alone, stage_shapes, whole_output

__all__ = [
    "Comparison",
    "Validation",
    "check_stages",
    "compare",
    "difference_over_time",
    "layer_outputs",
    "means_alone",
    "stage_shapes",
    "whole_output",
]
