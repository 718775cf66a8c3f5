"""Which module imports which: only downwards, and files of latents without any network."""

from __future__ import annotations

import ast
import functools
import graphlib
from pathlib import Path

import oobleck_stream

PACKAGE = Path(oobleck_stream.__file__).parent
GROUND = {
    "arrays",
    "checks",
    "errors",
    "fast_convolution",
    "formats",
    "memory",
    "operations",
    "warning",
}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


@functools.cache
def imports() -> dict[str, set[str]]:
    """The package's modules that each module imports, anywhere in its text."""
    found: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        found[name] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                submodules = [f"{node.module}.{alias.name}" for alias in node.names]
                found[name] |= {each if each in MODULES else node.module for each in submodules}
            elif isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names}
        found[name] &= MODULES.keys() - {name}
    return found


def floor_of(module: str) -> str:
    """A folder of the package, or a module beside these folders."""
    return [*module.split("."), ""][1]


def floors() -> dict[str, set[str]]:
    """The floors that the modules of each floor import."""
    found: dict[str, set[str]] = {}
    for module, imported in imports().items():
        mine = floor_of(module)
        found.setdefault(mine, set()).update(set(map(floor_of, imported)) - {mine, ""})
    del found[""]  # __init__.py imports the public names when they are first used.
    return found


def below(floor: str) -> set[str]:
    """All floors that a floor imports, directly or through others."""
    direct = floors()[floor]
    return direct.union(*map(below, direct))


def test_imports_only_go_down():
    graphlib.TopologicalSorter(floors()).prepare()  # Raises CycleError.
    modules = {name: imported - {"oobleck_stream"} for name, imported in imports().items()}
    del modules["oobleck_stream"]
    graphlib.TopologicalSorter(modules).prepare()


def test_files_of_latents_and_audio_import_no_network():
    assert below("formats") < GROUND
    assert below("files") <= GROUND


def test_the_engine_knows_no_models_and_no_checkpoints():
    assert below("engine") <= GROUND | {"cache_folder", "config", "network"}


def test_no_short_file_serves_only_one_other():
    users = {name: [user for user, used in imports().items() if name in used] for name in MODULES}
    short = {
        name: users[name]
        for name, path in MODULES.items()
        if path.name != "__init__.py" and len(path.read_text().splitlines()) < 40
    }
    assert not {name: found for name, found in short.items() if len(found) == 1}
