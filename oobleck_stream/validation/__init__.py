"""Comparison of a network's rows with a reference's, as a whole or stage by stage."""
