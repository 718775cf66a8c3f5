"""A cache of compiled functions on disk that replaces Numba's own.

Numba's own cache unpickles and links its files without checking them, and lets every file error
reach the caller. It detects changes only in the source file of the compiled function, not in the
source files of the functions that this function calls.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba import config
from numba.core.compiler import CompileResult
from numba.core.compiler_lock import global_compiler_lock
from numba.core.serialize import dumps

from oobleck_stream import fast_convolution, operations
from oobleck_stream.engine.kernel_entries import (
    NotKeptError,
    kernels_folder,
    read_entry,
    write_entry,
)
from oobleck_stream.warning import warn_once

SETTINGS = (
    "OPT",
    "LOOP_VECTORIZE",
    "SLP_VECTORIZE",
    "BOUNDSCHECK",
    "DEBUGINFO_DEFAULT",
    "USING_SVML",
)
"""Numba settings that change the compiled code."""

COMPILED = fast_convolution, operations
"""Modules outside the engine from which kernels are compiled."""

if hasattr(os, "register_at_fork"):
    # If a process forks while another of its threads compiles, the child inherits a lock that no
    # thread of the child can release, and a compiler in an undefined state. So the fork waits until
    # no other thread compiles.
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )


class KernelCache:
    """The cache of one function, with the interface that Numba's dispatchers expect.

    If a kernel can't be loaded or stored, it is compiled in memory. A ``RuntimeWarning`` says why,
    once for each reason.

    Parameters
    ----------
    function : callable
        The Python function. The cache key contains the `repr` of each value that the function
        closes over. If such a value is a compiled function, the values that it closes over are
        included too.
    """

    versions: tuple[str, ...] = (f"numba {numba.__version__}", f"llvmlite {llvmlite.__version__}")
    """Versions of the compiler, which are part of the cache key."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._name = function.__name__
        self._function = _described(function)
        self._sources = _digest_of_sources(Path(inspect.getfile(function)).parent)
        self._flushed = False

    @property
    def cache_path(self) -> str | None:
        """The folder in which kernels are kept; None if they are not kept on disk."""
        try:
            folder = kernels_folder()
        except NotKeptError:
            folder = None
        return None if folder is None else str(folder)

    def flush(self) -> None:
        """Ignore the stored kernels from now on. Numba calls this method to recompile."""
        self._flushed = True

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Load the compiled function for these argument types; return None if it isn't stored."""
        try:
            if self._flushed or kernels_folder() is None:
                return None
            target_context.refresh()
            content = read_entry(*self._identity(sig, target_context.codegen()))
            return None if content is None else self.build(target_context, content)
        except Exception as error:
            _warn_not_kept(error)
            return None

    def save_overload(self, sig: Any, compiled: Any) -> None:
        """Store the compiled function for these argument types."""
        try:
            if kernels_folder() is not None:
                write_entry(*self._identity(sig, compiled.codegen), self.dump(compiled))
        except Exception as error:
            _warn_not_kept(error)

    def dump(self, compiled: Any) -> bytes:
        """Serialize a compiled function."""
        if compiled.lifted or compiled.library.has_dynamic_globals:
            raise NotKeptError("the code contains addresses of this process")
        content: bytes = dumps(compiled._reduce())
        return content

    def build(self, target_context: Any, content: bytes) -> Any:
        """Deserialize a compiled function."""
        return CompileResult._rebuild(target_context, *pickle.loads(content))

    def _identity(self, sig: Any, codegen: Any) -> tuple[str, str]:
        """The file name, and the cache key with everything that the compiled code depends on."""
        if not self._sources:
            raise NotKeptError("the kernels' source files are missing")
        settings = [f"{name} {getattr(config, name, None)}" for name in SETTINGS]
        processor = repr(codegen.magic_tuple())
        key = "\n".join(
            [
                self._function,
                repr(sig),
                f"sources {self._sources}",
                processor,
                *self.versions,
                f"python {sys.version!r}",
                *settings,
            ]
        )
        return f"{self._name}-{hashlib.sha256(key.encode()).hexdigest()[:32]}", key


def keep(dispatcher: Any, cache: type[KernelCache] = KernelCache) -> Any:
    """Make a Numba dispatcher keep its compiled functions on disk, and return the dispatcher."""
    if hasattr(dispatcher, "_cache"):
        dispatcher._cache = cache(dispatcher.py_func)
    elif not config.DISABLE_JIT:  # type: ignore[attr-defined]
        _warn_not_kept(NotKeptError(f"Numba {numba.__version__} is not supported"))
    return dispatcher


def _described(function: Callable[..., Any]) -> str:
    """The name of a function and the values that it closes over, without any addresses."""
    values = inspect.getclosurevars(function).nonlocals
    found = {
        name: _described(value.py_func) if hasattr(value, "py_func") else repr(value)
        for name, value in sorted(values.items())
    }
    return f"{function.__module__}.{function.__qualname__} {found}"


@functools.cache
def _digest_of_sources(folder: Path) -> str:
    """SHA-256 digest of all modules from which kernels in a folder are compiled.

    These are the modules in the folder and in its parent folder, and those in `COMPILED`. The
    digest is empty if there are none.
    """
    digest = hashlib.sha256()
    paths = [*sorted(folder.glob("*.py")), *sorted(folder.parent.glob("*.py"))]
    if paths:
        paths += [Path(inspect.getfile(module)) for module in COMPILED]
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest() if paths else ""


def _warn_not_kept(error: Exception) -> None:
    reason = str(error) if isinstance(error, NotKeptError) else f"{type(error).__name__}: {error}"
    reason = " ".join(reason.split())[:300]
    warn_once(f"compiled kernels are not kept on disk, so every start compiles them: {reason}")
