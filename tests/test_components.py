"""`bench components`: its rows, its figures, and that a wrong layer is found."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
from command_line import run_command, run_process

from oobleck_stream.bench import component_tensors
from oobleck_stream.bench.component_report import component_lines
from oobleck_stream.bench.component_times import check_decoder, deviation
from oobleck_stream.bench.components import (
    GEOMETRY,
    Component,
    decoder_components,
    single_components,
)
from oobleck_stream.network import Layer

SIZES = {
    "Snake": ["32 x 128", "4,096 x 128", "135,461 x 128"],
    "WNConv1d small": ["64>128 k7, 32"],
    "WNConv1d large": ["128>128 k7, 135,461"],
    "WNConvTranspose1d": ["2048>1024 k8 s8, 32>257", "512>256 k8 s8, 529>4,233"],
    "ResidualBlock small": ["128>128, 32"],
    "ResidualBlock large": ["128>128, 135,461"],
    "input conv": ["64>2048 k7, 2"],
    "DecoderBlock 1": ["2048>1024, 2>33"],
    "DecoderBlock 2": ["1024>512, 33>529"],
    "DecoderBlock 3": ["512>256, 529>4,233"],
    "DecoderBlock 4": ["256>128, 4,233>33,865"],
    "DecoderBlock 5": ["128>128, 33,865>135,461"],
    "output": ["128>2 k7, 135,461"],
    "full decoder": ["64>2, 2>135,461"],
}
LAYERS = ["input conv", *(f"DecoderBlock {n}" for n in range(1, 6)), "final Snake", "output"]
TINY = GEOMETRY.replace(channels=3, strides=(2, 3, 2, 4, 2))
WIDEST = 100


@pytest.fixture(scope="module")
def facts() -> dict:
    options = ["--width", "4", "--threads", "2", "--seconds", "0.05", "--json"]
    done = run_process("bench", "components", *options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def all_components(config) -> list[Component]:
    return single_components(config) + decoder_components(config)


def test_rows_are_those_of_the_geometry():
    sizes: dict[str, list[str]] = {}
    for component in all_components(GEOMETRY):
        sizes.setdefault(component.name, []).append(component.size)
    assert sizes == SIZES


def test_every_row_is_measured(facts):
    expected = all_components(GEOMETRY.replace(channels=4))
    rows = facts["components"]
    assert [(row["name"], row["size"]) for row in rows] == [(c.name, c.size) for c in expected]
    for row, component in zip(rows, expected, strict=True):
        assert row["build_seconds"] > 0
        assert row["median_seconds"] > 0
        assert row["calls"] >= facts["rounds"] >= 3
        work = row["gbytes_per_second"] * 1e9 * row["median_seconds"]
        assert work == pytest.approx(component.bytes)
        assert (row["gflops"] is None) == (row["name"] == "Snake")
        if row["gflops"] is not None:
            work = row["gflops"] * 1e9 * row["median_seconds"]
            assert work == pytest.approx(component.operations)
            peak = facts["machine"]["peak"][0]["max_gflops"]
            assert row["share_of_peak"] == pytest.approx(row["gflops"] / peak)


def test_work_of_known_components():
    rows = {(c.name, c.rows): c for c in all_components(GEOMETRY)}
    conv, snake = rows["WNConv1d large", 135461], rows["Snake", 4096]
    up, unit = rows["WNConvTranspose1d", 32], rows["ResidualBlock small", 32]
    assert conv.operations == 2 * 135461 * 128 * 128 * 7
    assert conv.bytes == 4 * (2 * 135461 * 128 + 128 * 128 * 7 + 128)
    assert snake.operations is None
    assert snake.bytes == 4 * 2 * 4096 * 128
    assert up.operations == 2 * 32 * 2048 * 1024 * 8
    assert unit.operations == 2 * 32 * 128 * 128 * (7 + 1)


def test_everything_is_accurate(facts):
    assert [layer["name"] for layer in facts["layers"]] == LAYERS
    for row in [*facts["components"], *facts["layers"]]:
        assert 0 < row["deviation"] <= 1e-5, row["name"]
    sound = facts["sound"]
    assert (sound["samples"], sound["channels"]) == (135461, 2)
    assert sound["parts_are_identical"]
    assert min(sound["standard_deviations"]) > 0.05 * sound["peak"]


def test_kernels_are_compiled_once(facts):
    assert facts["compile"]["kernels"] > 0
    assert not any(row["kernels_compiled"] for row in facts["components"])


def test_table_fits_a_terminal(facts):
    lines = component_lines(facts)
    assert max(map(len, lines)) <= WIDEST
    for row in facts["components"]:
        assert any(line.startswith(row["name"]) and row["size"] in line for line in lines)
    text = "\n".join(lines)
    for words in (
        "83 to 96 s",
        "17 min",
        "constant 0.278",
        "part by part: bit-identical",
        "everywhere",
    ):
        assert words in text


@pytest.mark.parametrize("value", [2e-5, math.nan])
@pytest.mark.parametrize("table", ["components", "layers"])
def test_the_table_names_inaccurate_components(facts, table, value):
    wrong = copy.deepcopy(facts)
    wrong[table][2]["deviation"] = value
    lines = component_lines(wrong)
    line = next(line for line in lines if line.startswith("accuracy"))
    assert line.endswith(f"NOT within 1e-05 of the peak: {wrong[table][2]['name']}")


def test_drawn_snakes_are_stored_without_logarithms():
    layer = Layer("c", 4000, 1, 1, snake="s")
    tensors = component_tensors.draw_tensors([layer])
    for part in ("alpha", "beta"):
        logarithms = np.log(tensors[f"s.{part}"].astype(float))
        assert logarithms.mean() == pytest.approx(0, abs=0.03)
        assert logarithms.std() == pytest.approx(0.3, rel=0.05)


def test_each_component_is_reported_for_the_progress():
    calls = []
    built, _, _ = check_decoder(TINY, 1, lambda: calls.append(None))
    assert len(calls) == len(built) == len(decoder_components(TINY))


def test_a_fault_shows_from_its_layer_on(monkeypatch):
    """A block's Snake a thousandth too wide leaves the layers before it as they are."""
    *_, clean, sound = check_decoder(TINY, 1)
    assert max(layer["deviation"] for layer in clean) <= 1e-5
    assert sound["parts_are_identical"]
    right = component_tensors.DrawnParameters.snake

    def wrong(parameters, layer):
        alpha, inverse_beta = right(parameters, layer)
        scale = 1.001 if layer.snake == "decoder.layers.3.layers.0" else 1
        return alpha * np.float32(scale), inverse_beta

    monkeypatch.setattr(component_tensors.DrawnParameters, "snake", wrong)
    _, layers, _ = check_decoder(TINY, 1)
    assert layers[:3] == clean[:3]
    assert min(layer["deviation"] for layer in layers[3:]) > 1e-5


def test_deviation_of_other_shapes():
    with pytest.raises(ValueError, match="rows of shape"):
        deviation(np.zeros((2, 1), np.float32), np.ones((2, 2)))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--preset", "document"],
        ["--model", "tiny"],
        ["--pushes", "1"],
        ["--backend", "cuda"],
        ["--plot", "bench.png"],
    ],
)
def test_options_of_other_measurements_are_refused(arguments):
    done = run_command("bench", "components", *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    # Versions of click differ in the quotes around the name.
    assert "No such option" in line
    assert arguments[0] in line
