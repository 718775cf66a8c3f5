"""Stored reference samples: made in float64 with other libraries, checked without them.

``python tests/references.py`` makes them anew from the reference implementations.
"""

from __future__ import annotations

from pathlib import Path

import naive
import numpy as np
from networks import GEOMETRIES, random_latents, random_tensors, small

FILE = Path(__file__).with_name("references.npz")
FRAMES = 6
EVERY = 7
"""Each seventh sample is kept: a step with no factor in common with a stride."""


def case(name):
    """Config, tensors and latents of a stored reference."""
    config = small(name)
    return config, random_tensors(config, seed=11), random_latents(config, FRAMES, seed=12)


def digest(tensors):
    """A number that changes when the drawn tensors do."""
    return float(sum(np.abs(value.astype(float)).sum() for value in tensors.values()))


def _naive_decode(config, tensors, latents):
    """By the formulas: no library has the network with 65,536 samples a latent."""
    return naive.decode(latents, tensors, config)


def main():
    """Write the file."""
    import peers

    decoders = {"cosmos3": peers.cosmos_decode, "document": _naive_decode}
    stored = {}
    for name in GEOMETRIES:
        config, tensors, latents = case(name)
        decode = decoders.get(name, peers.diffusers_decode)
        stored[name] = decode(config, tensors, latents)[::EVERY]
        stored[f"{name}.digest"] = digest(tensors)
    np.savez_compressed(FILE, **stored)


if __name__ == "__main__":
    main()
