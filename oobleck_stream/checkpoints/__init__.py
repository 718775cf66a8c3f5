"""Checkpoint loading, in steps that each validate their input.

A container of named tensors is opened (`opening`), its tensors are mapped to canonical names
(`names`), and these are folded into packed parameters (`folding`).
"""
