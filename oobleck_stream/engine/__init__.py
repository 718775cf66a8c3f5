"""Plans pushes as programs, and runs these programs on the CPU or on a GPU."""
