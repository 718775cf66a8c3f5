"""Finite latents that make float32 overflow inside a small network."""

from __future__ import annotations

import numpy as np
from networks import model_of, random_latents, small

from oobleck_stream.engine.stack import Stack

SMALL = {"strides": (2, 3, 4), "multiples": (1, 2, 4)}
CONFIG = small("stable-audio-open-1.0", latent_scale=100.0, **SMALL)
MODEL = model_of(CONFIG)
HOP = MODEL.hop
FRAMES, BAD = 70, 30

ENCODING = model_of(small("stable-audio-open-1.0", latent_scale=1e-3, **SMALL))


def overflowing(bad=BAD, seed=1, frames=FRAMES):
    """Latents of which one frame is finite, but too large."""
    latents = random_latents(CONFIG, frames, seed)
    latents[bad] = 3e38
    return latents


def unchecked(latents, model=MODEL):
    """The network's output, whatever it is."""
    return Stack(model.decoder, 1).push(np.ascontiguousarray(latents), last=True)


def bad_rows(rows):
    """Numbers of the rows that are not finite; there are some."""
    found = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    assert len(found)
    return found


LATENTS = overflowing()
WHOLE = unchecked(LATENTS)
FIRST, *_, LAST = bad_rows(WHOLE).tolist()
NAMED = rf"^the samples of frame {FIRST // HOP} are not finite: .* float32 overflows"
