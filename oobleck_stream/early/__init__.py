"""Early samples: samples that are returned before they are final.

The module `look_ahead` defines them. After each frame, they are what the frames so far would decode
to if no frame followed, with a crossfade from the sound that was predicted after the previous
frame. `tests/early_sound.py` is a plain implementation of this definition.

`oobleck_stream.engine.provisional` plans their computation: a flush that computes only the rows on
which the wanted samples depend. The flush works on copies of the ends of the layers' windows
(`oobleck_stream.engine.arena`), so it does not change the exact stream. In the first layers, one
step computes both the final and the provisional rows (`oobleck_stream.engine.provisional_front`).
For Stable Audio Open, a push of one frame takes 3.2 times the multiply-adds of an exact push. With
``exact=False`` it takes 2.3 times as many, because layers are left out if no early sample depends
on their final rows.

By default, zeros stand in for the missing frames. With the network `tiny`, the error is 4 dB lower
than if the last frame is repeated, and 1 to 10 dB lower than with extrapolation.
"""
