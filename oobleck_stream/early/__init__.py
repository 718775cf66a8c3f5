"""Samples given out before they are final: what they are, how good, and at what cost.

`look_ahead` defines them: after each frame, what the frames so far would decode to if none
followed, and a crossfade from what the frame before promised. `tests/early_sound.py` is the plain
version.

`oobleck_stream.engine.provisional` plans them: a flush limited to the rows that the wanted samples
depend on, on copies of the windows' ends, so the exact stream goes on untouched. In the first
layers, one step computes the final and the provisional rows
(`oobleck_stream.engine.provisional_front`). A push of one frame takes Stable Audio Open 3.2 times
the multiply-adds of an exact one, and 2.3 times with ``exact=False``, which leaves out layers whose
final rows no early sample needs.

Zeros stand in for missing frames: with `tiny` they are 4 dB better than the last frame held, and 1
to 10 dB better than extrapolation.
"""
