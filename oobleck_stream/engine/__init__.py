"""How a push runs: a planner, arenas, and engines that run programs on the CPU or on a GPU."""
