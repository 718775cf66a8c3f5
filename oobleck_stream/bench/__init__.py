"""The benchmark: the machine's limits, and the decoder and its peers relative to them."""
