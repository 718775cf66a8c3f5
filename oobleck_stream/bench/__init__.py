"""The benchmark: the limits of the machine, and the speed of this package and other runtimes."""
