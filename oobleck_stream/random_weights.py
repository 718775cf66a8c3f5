"""Models with random weights."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from oobleck_stream import network
from oobleck_stream.config import OobleckConfig, preset
from oobleck_stream.engine.needs import require_affordable
from oobleck_stream.engine.packed import PackedNetwork
from oobleck_stream.model import Model
from oobleck_stream.parameters import RandomParameters, pack_network


def random_model(name: str | OobleckConfig, seed: int = 0, backend: str = "cpu") -> Model:
    """Make a model of a preset's geometry with random weights, for tests and benchmarks.

    Parameters
    ----------
    name : str or OobleckConfig
        Name of a preset, or a config.
    seed : int
        The same seed gives the same weights.
    backend : str
        As for `Model`.

    Returns
    -------
    Model

    Raises
    ------
    ValueError
        If there is no preset with this name.
    CheckpointError
        If the decoder takes too much memory or work. The encoder is not checked until its first
        use. This error is a ``ValueError``.

    Examples
    --------
    >>> import oobleck_stream as ob
    >>> model = ob.random_model(ob.preset("ezaudio").replace(channels=4), seed=1)
    >>> model.decode(model.encode([0.5] * 4800)).shape
    (4800, 1)
    """
    config = preset(name) if isinstance(name, str) else name
    parameters = RandomParameters(config, seed)
    label = name if isinstance(name, str) else "config"
    title = f"random {label}, seed {seed}"

    pack = functools.partial(_pack_random, title, parameters)
    decoder = pack(network.decoder_layers(config), config.latent_scale)
    encoder = functools.partial(pack, network.encoder_layers(config))
    return Model(config, decoder, title, load_encoder=encoder, backend=backend)


def _pack_random(
    title: str, parameters: RandomParameters, layers: Sequence[network.Layer], scale: float = 1.0
) -> PackedNetwork:
    require_affordable(title, layers)
    return pack_network(layers, parameters, scale)
