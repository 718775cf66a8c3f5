"""Compares a network with a reference, either only the output or every stage."""
