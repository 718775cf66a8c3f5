"""The benchmark: this machine's limits, the decoder's figures beside them, and its peers'."""
