"""Comparison of a network with a reference: of the output only, or of every stage."""
