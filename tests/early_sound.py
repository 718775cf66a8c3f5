"""The early sound from its definition: decode every beginning of the piece, then crossfade."""

from __future__ import annotations

import functools

import numpy as np


def early_sound(model, latents, look_ahead, fade, missing="zeros"):
    """All samples that a decoder with a look-ahead returns; look_ahead and fade in samples.

    Returns
    -------
    (samples, channels) float32
        As long as the decoded piece.
    """
    exact, hop = model.decode(latents), model.hop
    if look_ahead == model.latency:
        return exact
    short = max(0, hop - model.decoded_length(1)) if missing == "zeros" else 0
    look_ahead = max(look_ahead, short)
    room = look_ahead - short if missing == "zeros" else hop
    fade = min(fade, room, model.latency - look_ahead)
    weights = np.arange(1, fade + 1, dtype=np.float32)[:, None] / np.float32(fade + 1)

    sound, given, before = np.empty_like(exact), 0, exact[:0]
    for count in range(1, len(latents) + 1):
        known = latents[:count]
        if missing == "held":
            known = np.concatenate([known, np.repeat(known[-1:], model.context, axis=0)])
        now = _decoded(model, known.tobytes())
        given = _go_on(sound, given, count * hop - look_ahead, before, now, weights)
        before = now
    _go_on(sound, given, len(exact), before, exact, weights)
    return sound


@functools.lru_cache(maxsize=1000)
def _decoded(model, known):
    """The samples of some latents, of which many tests decode the same beginnings."""
    return model.decode(np.frombuffer(known, np.float32).reshape(-1, model.latent_dim))


def _go_on(sound, given, end, before, now, weights):
    """Fill in samples from `given` up to `end`, the first of them crossfaded."""
    if end <= given:
        return given
    sound[given:end] = now[given:end]
    if given:
        faded = slice(given, min(end, given + len(weights)))
        old, new = before[faded], now[faded]
        sound[faded] = old + weights[: len(old)] * (new - old)
    return end
