"""Samples given out before they are final: what they are, how good, and at what cost."""
