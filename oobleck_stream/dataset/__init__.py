"""Encode and decode data sets, on one machine or on many.

>>> import numpy as np
>>> import soundfile
>>> import oobleck_stream as ob
>>> sound = np.random.default_rng(0).uniform(-0.5, 0.5, (44_100, 2)).astype(np.float32)
>>> soundfile.write("a.wav", sound, 44_100, subtype="FLOAT")
>>> report = ob.dataset.encode("a.wav", "latents", workers=0)
>>> report.done, report.failed
(1, ())
>>> latents = np.load("latents/a.wav.npy")
>>> np.array_equal(latents.T, ob.load("tiny").encode(sound))
True
>>> ob.dataset.decode("latents/a.wav.npy", "sounds", workers=0).done
1

If `workers` is not 0, a program must call these functions under ``if __name__ == "__main__":``,
because each worker process imports the program.
"""

from __future__ import annotations

from oobleck_stream.dataset.api import decode as decode
from oobleck_stream.dataset.api import encode as encode
from oobleck_stream.dataset.api import plan_decode as plan_decode
from oobleck_stream.dataset.api import plan_encode as plan_encode
from oobleck_stream.dataset.plan import Plan as Plan
from oobleck_stream.dataset.plan import Report as Report
from oobleck_stream.dataset.running import Progress as Progress

__all__ = ["Plan", "Progress", "Report", "decode", "encode", "plan_decode", "plan_encode"]
