"""The benchmark: the limits of the machine, and the speed of the decoder and its peers."""
