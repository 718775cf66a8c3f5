"""Compiles the CUDA kernels where there is no GPU: to PTX, and on to machine code by ptxas."""

from __future__ import annotations

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
    """The assembler: that of the compiler's own package, or one on the path."""
    package = Path(sysconfig.get_path("purelib")) / "nvidia"
    for path in sorted(package.glob("*/bin/ptxas"), reverse=True):
        return str(path)
    return shutil.which("ptxas")


def capabilities() -> list[tuple[int, int]]:
    """What the installed compiler can compile for, lowest first."""
    from numba.cuda.cudadrv import nvrtc, nvvm

    for module in (nvvm, nvrtc):
        if hasattr(module, "get_supported_ccs"):
            return sorted(tuple(found[:2]) for found in module.get_supported_ccs())
    raise AssertionError("numba-cuda no longer says what it compiles for")


def compiled(kernel, kinds: str, capability: tuple[int, int]) -> str:
    """PTX of a kernel for a compute capability.

    `kinds` names its parameters: ``f`` and ``i`` are arrays of float32 and int64, ``t`` a table of
    int64, ``n`` an int64.
    """
    # The functions that a kernel calls ask for the device, of which they only need this.
    device = SimpleNamespace(compute_capability=capability)
    with mock.patch("numba.cuda.dispatcher.get_current_device", return_value=device):
        text, _ = compile_function(
            kernel.py_func,
            types.void(*_types_of(kinds)),
            device=False,
            cc=capability,
            abi="numba",
            output="ptx",
        )
    return text.decode() if isinstance(text, bytes) else str(text)


def bound(kernel, kinds: str, capability: tuple[int, int]) -> str:
    """PTX of a kernel that its dispatcher compiles, or loads from disk, as for its first launch."""
    device = SimpleNamespace(compute_capability=capability)
    context = SimpleNamespace(device=device)
    with (
        mock.patch("numba.cuda.dispatcher.get_current_device", return_value=device),
        mock.patch("numba.cuda.codegen.devices.get_context", return_value=context),
        mock.patch("numba.cuda.dispatcher._Kernel.bind"),
    ):
        compiled = kernel.compile(_types_of(kinds))
        return str(compiled.library.get_asm_str(capability))


def _types_of(kinds: str) -> tuple:
    known = {
        "f": types.Array(types.float32, 1, "C"),
        "i": types.Array(types.int64, 1, "C"),
        "t": types.Array(types.int64, 2, "C"),
        "n": types.int64,
    }
    return tuple(known[kind] for kind in kinds)


def float_operations(text: str) -> dict[str, int]:
    """How often each operation on floats that could be fused, or is, stands in PTX."""
    found: dict[str, int] = {}
    for name in re.findall(r"\b(?:add|sub|mul|mad|fma|div)\.(?:\w+\.)*f(?:32|64)\b", text):
        found[name] = found.get(name, 0) + 1
    return found


@dataclass(frozen=True)
class Usage:
    """What a kernel takes of a multiprocessor, as ptxas says."""

    registers: int
    shared: int
    stack: int
    spilled: int


def assembled(text: str, capability: tuple[int, int], program: str, folder: Path) -> Usage:
    """Assemble PTX; ``AssertionError`` with what ptxas says if it will not."""
    source = folder / "kernel.ptx"
    source.write_text(text)
    command = [program, "-v", f"-arch=sm_{capability[0]}{capability[1]}", str(source)]
    done = subprocess.run(
        [*command, "-o", str(folder / "kernel.cubin")], capture_output=True, text=True
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said

    def number(pattern: str) -> int:
        return max((int(found) for found in re.findall(pattern, said)), default=0)

    assert "registers" in said, said
    return Usage(
        number(r"Used (\d+) registers"),
        number(r"(\d+) bytes smem"),
        number(r"(\d+) bytes stack frame"),
        number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads"),
    )
