"""The exact streaming of a stack of layers: state, plan, threads."""
