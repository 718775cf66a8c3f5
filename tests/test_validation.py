"""The comparison itself, and the stages at which a network is compared."""

from __future__ import annotations

import math
import tracemalloc

import naive
import numpy as np
import pytest
from networks import (
    ENCODING,
    GEOMETRIES,
    model_of,
    random_audio,
    random_latents,
    random_tensors,
    signal_to_noise,
    small,
)

from oobleck_stream.bottleneck import distribution
from oobleck_stream.config import OobleckConfig
from oobleck_stream.validation.alignment import delay_of, overlap
from oobleck_stream.validation.check import check_stages
from oobleck_stream.validation.comparison import compare, difference_over_time
from oobleck_stream.validation.report import report_lines
from oobleck_stream.validation.stages import layer_outputs, means_alone, stage_shapes, whole_output


def shortened(config):
    """Smaller strides, for the slow reference."""
    return config.replace(strides=tuple(min(stride, 5) for stride in config.strides))


# aligning


@pytest.mark.parametrize("delay", [-70_000, -5, 0, 3, 99_999])
def test_the_delay_is_found_across_blocks(delay):
    random = np.random.default_rng(0)
    rows = random.standard_normal((400_000, 2)).astype(np.float32)
    first, theirs = max(0, -delay), max(0, delay)
    reference = np.concatenate([np.zeros((theirs, 2)), rows[first:]])
    reference += 0.5 * random.standard_normal(reference.shape)
    reference[theirs + 1000, 1] = np.nan
    assert delay_of(reference, rows, 100_000) == delay
    mine, other = overlap(rows, reference, delay)
    assert len(mine) == len(other) == len(rows) - first
    np.testing.assert_array_equal(mine, rows[first:])
    np.testing.assert_array_equal(other, reference[theirs:])


def test_silence_is_not_shifted():
    assert delay_of(np.zeros((50, 2)), np.ones((40, 2)), 10) == 0
    assert [len(part) for part in overlap(np.ones((4, 1)), np.ones((9, 1)), -7)] == [0, 0]


# comparing


def test_metrics_of_a_hand_made_case():
    ours = np.array([[1.0, 2.0], [3.0, -4.0], [0.0, 0.5]], np.float32)
    reference = np.array([[1.0, 2.5], [3.0, -4.0], [0.25, 0.5]])
    found = compare(ours, reference, 0.25)
    assert (found.rows, found.channels, found.count) == (3, 2, 6)
    assert found.mean_difference == 0.75 / 6
    assert found.max_difference == 0.5
    assert found.worst == (0, 1)
    assert found.rmse == pytest.approx(math.sqrt(0.3125 / 6))
    power = 1 + 6.25 + 9 + 16 + 0.0625 + 0.25
    assert found.snr_db == pytest.approx(10 * math.log10(power / 0.3125))
    assert found.peak == 4
    assert (found.over, found.share, found.within) == (1, 1 / 6, False)
    assert compare(ours, reference, 0.5).within


def test_equal_and_silent():
    rows = np.ones((4, 3), np.float32)
    found = compare(rows, rows, 0)
    assert (found.max_difference, found.snr_db, found.within) == (0, math.inf, True)
    assert compare(rows, np.zeros((4, 3)), 0).snr_db == -math.inf


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_exceeds_any_tolerance(side, value):
    pair = [np.zeros((200_000, 3)), np.zeros((200_000, 3))]
    pair[side][150_000, 2] = value
    pair[1][10, 0] = 7.0
    found = compare(*pair, tolerance=100.0)
    assert found.over == 1
    assert found.worst == (150_000, 2)
    assert not np.isfinite(found.max_difference)
    assert not np.isfinite(found.rmse)


def test_the_size_of_blocks_changes_nothing():
    generator = np.random.default_rng(0)
    reference = generator.standard_normal((3001, 301))
    ours = (reference + 1e-3 * generator.standard_normal((3001, 301))).astype(np.float32)
    difference = np.abs(ours.astype(float) - reference)
    for stored in (reference, np.asfortranarray(reference)):
        found = compare(ours, stored, 1e-3)
        assert found.mean_difference == pytest.approx(difference.mean(), rel=1e-12)
        assert found.rmse == pytest.approx(np.sqrt((difference**2).mean()), rel=1e-12)
        assert found.max_difference == difference.max()
        assert found.worst == np.unravel_index(difference.argmax(), difference.shape)
        assert found.over == (difference > 1e-3).sum()
        assert found.peak == np.abs(reference).max()
        assert found.snr_db == pytest.approx(signal_to_noise(reference, ours))


def test_memory_does_not_grow_with_the_piece():
    ours = np.zeros((4_000_000, 2), np.float32)
    reference = np.broadcast_to(np.float32(1), ours.shape)
    tracemalloc.start()
    compare(ours, reference, 0.1)
    difference_over_time(ours, reference, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < ours.nbytes / 2


@pytest.mark.parametrize("shape", [(4, 3), (5, 2), (4, 2, 1)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"\(4, 2\).*, the reference's is \("):
        compare(np.zeros((4, 2)), np.zeros(shape), 1)


def test_an_empty_comparison_is_refused():
    with pytest.raises(ValueError, match="nothing to compare"):
        compare(np.zeros((0, 2)), np.zeros((0, 2)), 1)


def test_difference_over_time():
    ours, reference = np.zeros((10, 2)), np.zeros((10, 2))
    reference[1, 0], reference[9, 1], reference[5, 0] = 3, -4, math.nan
    found = difference_over_time(ours, reference, 5)
    expected = np.zeros((5, 2))
    expected[0, 0], expected[4, 1], expected[2, 0] = 3, 4, math.nan
    np.testing.assert_array_equal(found, expected)
    assert difference_over_time(ours, reference, 100).shape == (10, 2)


# stages


@pytest.mark.parametrize(
    ("name", "half"),
    [(name, "decoder") for name in GEOMETRIES] + [(name, "encoder") for name in ENCODING],
)
def test_stages_are_those_of_the_formulas(name, half):
    config = shortened(small(name, final_tanh=name == "yue2", latent_scale=1.3))
    model, tensors = model_of(config, 3), random_tensors(config, 3, half)
    rows = random_latents(config, 2) if half == "decoder" else random_audio(config, config.hop)
    ours = dict(layer_outputs(model, rows, half))
    theirs = dict(getattr(naive, f"{half}_stages")(rows, tensors, config))
    assert list(ours) == list(theirs)
    layers = (model.decoder if half == "decoder" else model.encoder).layers
    assert stage_shapes(layers, len(rows)) == {name: rows.shape for name, rows in theirs.items()}
    for stage, expected in theirs.items():
        assert compare(ours[stage], expected, 1e-4).snr_db >= 115, stage


TILED = OobleckConfig(latent_dim=8, channels=64, multiples=(1, 3, 3), strides=(2, 4, 32))
"""A network with tiles, and with blocks that end with a unit in tiles."""


@pytest.mark.parametrize(
    "config",
    [*(small(name, channels=20) for name in GEOMETRIES), TILED],
    ids=[*GEOMETRIES, "tiles"],
)
def test_the_last_stage_has_the_bits_of_decode(config):
    model, latents = model_of(config), random_latents(config, 14)
    expected = model.decode(latents)
    assert np.array_equal(dict(layer_outputs(model, latents, threads=1))["output"], expected)
    assert np.array_equal(dict(whole_output(model, latents))["output"], expected)


def test_the_means_alone_have_the_bits_of_encode():
    config = small("ezaudio", latent_scale=0.37)
    model, audio = model_of(config), random_audio(config, 20 * config.hop)
    outputs = dict(means_alone(layer_outputs(model, audio, "encoder"), config.latent_scale))
    assert np.array_equal(outputs["output"], model.encode(audio))
    raw = dict(whole_output(model, audio, "encoder"))["output"]
    assert np.array_equal(distribution(raw, config.latent_scale)[0], outputs["output"])


# validating


def stages_of(*names):
    return [(name, np.full((4, 2), number, np.float32)) for number, name in enumerate(names)]


def test_the_first_stage_outside_is_named():
    def reference(visit):
        for name, offset in [("a", 0.01), ("b", 1.2), ("d", 3.5)]:
            visit(name, np.full((4, 2), "abcd".index(name) + offset))

    result = check_stages(stages_of("a", "b", "c", "d"), reference, 0.05, columns=2)
    assert list(result.stages) == ["a", "b", "d"]
    assert (result.first_outside, result.missing, result.passed) == ("b", ("c",), False)
    np.testing.assert_allclose(result.over_time, np.full((2, 2), 3.5))
    assert report_lines(result, 0.05)[-2:] == [
        "not in the reference: c",
        "FAILED: b is the first to leave the tolerance of 0.05: 8 of 8 elements, by up to 1.2 "
        "(time 0, channel 0)",
    ]


def test_another_shape_ends_it():
    def reference(visit):
        visit("a", np.zeros((4, 2)))
        visit("b", np.zeros((5, 2)))

    result = check_stages(stages_of("a", "b", "c"), reference, 0.05)
    assert list(result.stages) == ["a"]
    assert not result.passed
    verdict = report_lines(result, 0.05)[-1]
    assert verdict == "FAILED: b: our shape is (4, 2), the reference's is (5, 2)"


def test_comparing_nothing_does_not_pass():
    assert not check_stages(stages_of("a"), lambda visit: None, 1).passed
