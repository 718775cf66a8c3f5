"""The folder for files that are kept between runs: packed networks and compiled kernels."""

from __future__ import annotations

import os
import stat
from pathlib import Path

VARIABLE = "OOBLECK_STREAM_CACHE"


def cache_folder() -> Path | None:
    """The folder of all caches, which may not exist yet.

    Returns
    -------
    pathlib.Path or None
        ``$OOBLECK_STREAM_CACHE``, or ``oobleck_stream`` in the user's cache folder. None when the
        variable is ``off``.

    Raises
    ------
    OSError
        When the folder depends on a home folder that is unknown.
    """
    asked = os.environ.get(VARIABLE, "").strip()
    if asked.lower() in ("off", "0", "no", "false"):
        return None
    try:
        if asked:
            return Path(asked).expanduser()
        home = os.environ.get("XDG_CACHE_HOME", "").strip()
        return (Path(home) if home else Path.home() / ".cache") / "oobleck_stream"
    except RuntimeError as error:
        raise OSError("the home folder is unknown") from error


def why_not_trusted(found: os.stat_result, writable: int = stat.S_IWGRP | stat.S_IWOTH) -> str:
    """Why another user may have written to a file or folder; empty if none can have.

    Parameters
    ----------
    found : os.stat_result
    writable : int
        The permission bits that would let another user write.
    """
    if not hasattr(os, "geteuid"):
        return ""
    if found.st_uid not in (0, os.geteuid()):
        return "belongs to another user"
    return "can be written by other users" if found.st_mode & writable else ""
