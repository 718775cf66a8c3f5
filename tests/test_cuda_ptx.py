"""Every CUDA kernel, compiled to PTX and assembled for each generation of GPUs, without any GPU."""

from __future__ import annotations

import functools

import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed (extra `cuda13`)")

import ptx

from oobleck_stream.engine.cuda import epilogue, library, moves, product, schemes
from oobleck_stream.engine.cuda.library import has_compiler
from oobleck_stream.engine.cuda.tiles import TILES
from oobleck_stream.fast_convolution import SCHEMES
from oobleck_stream.operations import Operations

if not has_compiler():
    pytest.skip("CUDA's compiler is missing (extra `cuda13`)", allow_module_level=True)

CAPABILITIES = [(7, 5), (8, 0), (8, 9), (9, 0), (12, 0)]
REGISTERS, MOST_REGISTERS, STATIC_SHARED = 65536, 255, 48 * 1024
PARTS = [f"{part} {rows}" for rows in SCHEMES for part in ("transform", "combine")]
NAMES = [f"{tile.rows}x{tile.columns}" for tile in TILES] + ["finish", "moves", *PARTS]

# Float operations of one Snake and one tanh together. A contraction would change the counts.
FUSED, PRODUCTS, DIFFERENCES, QUOTIENTS = 23, 8, 3, 1


@functools.cache
def compiled(name: str, capability: tuple[int, int]) -> tuple[str, int]:
    """PTX of a kernel, and the threads of its blocks."""
    supported = ptx.capabilities()
    if capability not in supported:
        pytest.skip(f"the installed compiler knows {supported[0]} to {supported[-1]}")
    threads = 256
    if name == "finish":
        kernel = epilogue.finish_kernel()
    elif name == "moves":
        kernel = moves.moves_kernel()
    elif name in PARTS:
        part, rows = name.split()
        kernel = getattr(schemes, f"{part}_kernel")(int(rows))
    else:
        tile = TILES[NAMES.index(name)]
        kernel, threads = product.product_kernel(tile), tile.threads
    return ptx.compiled(kernel, capability), threads


def combinations(names):
    """Every kernel for every capability; by default the oldest one, and for others the smallest."""
    default = ("8x32", "finish", "moves")
    return pytest.mark.parametrize(
        ("name", "capability"),
        [
            pytest.param(
                name,
                capability,
                id=f"{name}-{capability[0]}.{capability[1]}",
                marks=[pytest.mark.nightly]
                if capability != CAPABILITIES[0] and name not in default
                else [],
            )
            for name in names
            for capability in CAPABILITIES
        ],
    )


@combinations(NAMES)
def test_assembles_without_spills(name, capability, tmp_path, record_property):
    program = ptx.ptxas()
    if program is None:
        pytest.skip("ptxas is not installed (pip install 'cuda-toolkit[nvcc]==13.*')")
    text, threads = compiled(name, capability)
    usage = ptx.assembled(text, capability, program, tmp_path)
    record_property("usage", str(usage))
    assert usage.spilled == 0
    assert usage.stack == 0
    assert ".local" not in text
    assert usage.registers <= MOST_REGISTERS
    assert usage.registers * threads <= REGISTERS
    assert usage.shared <= STATIC_SHARED


def operations_of(name: str) -> dict[str, int]:
    """How often a part of a scheme uses each operation; those with the same operands count once."""
    part, rows = name.split()
    scheme, used = SCHEMES[int(rows)], set()

    def counted(operation):
        def use(*operands):
            used.add((operation, *operands))
            return operation, *operands

        return use

    names = ("fma", "multiply", "add", "subtract", "divide", "less", "select", "power_of_two")
    operations = Operations(constant=float, **{each: counted(each) for each in names})
    getattr(scheme, part)(
        range(scheme.inputs if part == "transform" else scheme.points), operations
    )
    kinds = {"fma": "fma", "mul": "multiply", "add": "add", "sub": "subtract"}
    found = {kind: sum(each == of for of, *_ in used) for kind, each in kinds.items()}
    return {f"{kind}.rn.f32": count for kind, count in found.items() if count}


@combinations([name for name in PARTS if name.startswith("transform")])
def test_a_transform_has_the_operations_of_its_scheme(name, capability):
    text, _ = compiled(name, capability)
    assert ptx.float_operations(text) == operations_of(name)
    assert "approx" not in text


@combinations([name for name in NAMES if name != "moves" and not name.startswith("transform")])
def test_only_explicit_fused_multiply_adds_are_fused(name, capability):
    """No multiplication and addition is contracted, and every operation is in float32.

    Nothing flushes subnormals to zero (``.ftz``), and divisions are correctly rounded.
    """
    text, _ = compiled(name, capability)
    found = ptx.float_operations(text)
    assert set(found) == {f"{kind}.rn.f32" for kind in ("add", "sub", "mul", "div", "fma")}
    assert "approx" not in text
    copies = found["div.rn.f32"] // QUOTIENTS
    scheme = operations_of(name) if name in PARTS else {}
    assert found["sub.rn.f32"] == DIFFERENCES * copies + scheme.get("sub.rn.f32", 0)
    assert found["mul.rn.f32"] >= PRODUCTS * copies + scheme.get("mul.rn.f32", 0)
    chains = found["fma.rn.f32"] - FUSED * copies - scheme.get("fma.rn.f32", 0)
    if name == "finish" or name in PARTS:
        assert chains == 0
    else:
        tile = TILES[NAMES.index(name)]
        assert chains > 0
        assert chains % (tile.thread_rows * tile.thread_columns) == 0


@pytest.mark.parametrize("tile", TILES, ids=NAMES[: len(TILES)])
def test_a_thread_reads_several_floats_at_once(tile):
    text, _ = compiled(f"{tile.rows}x{tile.columns}", CAPABILITIES[0])
    wide = {1: "f32", 2: "v2.f32", 4: "v4.f32"}[min(4, tile.thread_rows)]
    assert f"ld.shared.{wide}" in text


def test_kept_on_disk(tmp_path, monkeypatch):
    """Another dispatcher finds the kernel, unless the file is damaged or the GPU is another."""
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path))
    kernels = [library.kernel(moves.moves_kernel().py_func) for _ in range(4)]
    first = ptx.bound(kernels[0], (9, 0))
    assert ptx.bound(kernels[1], (9, 0)) == first
    ptx.bound(kernels[2], (8, 0))
    for file in tmp_path.rglob("*.kernel"):
        file.write_bytes(file.read_bytes()[:-1])
    ptx.bound(kernels[3], (9, 0))
    misses = [sum(kernel.stats.cache_misses.values()) for kernel in kernels]
    hits = [sum(kernel.stats.cache_hits.values()) for kernel in kernels]
    assert (misses, hits) == ([1, 0, 1, 1], [0, 1, 0, 0])


def test_a_kernel_of_other_functions_is_found_by_what_they_close_over(tmp_path, monkeypatch):
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path))
    make = schemes.transform_kernel.__wrapped__
    kernels = [make(rows) for rows in (2, 2, 4)]
    for kernel in kernels:
        ptx.bound(kernel, (9, 0))
    assert [sum(kernel.stats.cache_hits.values()) for kernel in kernels] == [0, 1, 0]


def test_compilation_is_reported():
    from oobleck_stream.engine.cuda.library import on_compilation

    reports = []
    with on_compilation(lambda: reports.append(1)):
        assert not reports
        ptx.compiled(moves.moves_kernel(), ptx.capabilities()[-1])
    before = len(reports)
    assert before > 0
    ptx.compiled(moves.moves_kernel(), ptx.capabilities()[-1])
    assert len(reports) == before
