"""Compiles the CUDA kernels where there is no GPU: to PTX, and on to machine code by ptxas."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from numba.cuda import types
from numba.cuda.compiler import compile as compile_function


def ptxas() -> str | None:
    """Path of the assembler, from the compiler's package or from PATH; None if missing."""
    package = Path(sysconfig.get_path("purelib")) / "nvidia"
    for path in sorted(package.glob("*/bin/ptxas"), reverse=True):
        return str(path)
    return shutil.which("ptxas")


def capabilities() -> list[tuple[int, int]]:
    """The compute capabilities that the installed compiler supports, lowest first."""
    from numba.cuda.cudadrv import nvrtc, nvvm

    for module in (nvvm, nvrtc):
        if hasattr(module, "get_supported_ccs"):
            return sorted(tuple(found[:2]) for found in module.get_supported_ccs())
    raise AssertionError("numba-cuda no longer lists compute capabilities")


def compiled(kernel, capability: tuple[int, int]) -> str:
    """PTX of a kernel for a compute capability."""
    # The functions that a kernel calls query the device, but only for its compute capability.
    device = SimpleNamespace(compute_capability=capability)
    with mock.patch("numba.cuda.dispatcher.get_current_device", return_value=device):
        text, _ = compile_function(
            kernel.py_func,
            types.void(*_types_of(kernel)),
            device=False,
            cc=capability,
            abi="numba",
            output="ptx",
        )
    return text.decode() if isinstance(text, bytes) else str(text)


def bound(kernel, capability: tuple[int, int]) -> str:
    """PTX of a kernel that its dispatcher compiles or loads from disk, as at its first launch."""
    device = SimpleNamespace(compute_capability=capability)
    context = SimpleNamespace(device=device)
    with (
        mock.patch("numba.cuda.dispatcher.get_current_device", return_value=device),
        mock.patch("numba.cuda.codegen.devices.get_context", return_value=context),
        mock.patch("numba.cuda.dispatcher._Kernel.bind"),
    ):
        compiled = kernel.compile(_types_of(kernel))
        return str(compiled.library.get_asm_str(capability))


def _types_of(kernel) -> tuple:
    """The types of a kernel's parameters, by their names."""
    floats = types.Array(types.float32, 1, "C")
    tables = types.Array(types.int64, 2, "C")
    known = dict.fromkeys(("source", "target", "arenas", "parameters", "sums"), floats)
    known |= {"steps": tables, "moves": tables, "streams": types.Array(types.int64, 1, "C")}
    names = inspect.signature(kernel.py_func).parameters
    return tuple(known.get(name, types.int64) for name in names)


def float_operations(text: str) -> dict[str, int]:
    """Number of occurrences in PTX of each float operation that is, or could be, fused."""
    found: dict[str, int] = {}
    for name in re.findall(r"\b(?:add|sub|mul|mad|fma|div)\.(?:\w+\.)*f(?:32|64)\b", text):
        found[name] = found.get(name, 0) + 1
    return found


@dataclass(frozen=True)
class Usage:
    """The resources that a kernel uses, as reported by ptxas."""

    registers: int
    shared: int
    stack: int
    spilled: int


def assembled(text: str, capability: tuple[int, int], program: str, folder: Path) -> Usage:
    """Assemble PTX; ``AssertionError`` with the output of ptxas if that fails."""
    source = folder / "kernel.ptx"
    source.write_text(text)
    command = [program, "-v", f"-arch=sm_{capability[0]}{capability[1]}", str(source)]
    done = subprocess.run(
        [*command, "-o", str(folder / "kernel.cubin")], capture_output=True, text=True
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output

    def number(pattern: str) -> int:
        return max((int(found) for found in re.findall(pattern, output)), default=0)

    assert "registers" in output, output
    return Usage(
        number(r"Used (\d+) registers"),
        number(r"(\d+) bytes smem"),
        number(r"(\d+) bytes stack frame"),
        number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads"),
    )
