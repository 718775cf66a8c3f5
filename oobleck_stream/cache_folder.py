"""The folder for cached networks and kernels, and a check of the permissions of cached files."""

from __future__ import annotations

import os
import stat
from pathlib import Path

VARIABLE = "OOBLECK_STREAM_CACHE"
"""The environment variable that names the folder; ``off`` turns all caches off."""


def cache_folder() -> Path | None:
    """Return the folder of all caches, which may not exist yet.

    Returns
    -------
    pathlib.Path or None
        ``$OOBLECK_STREAM_CACHE`` if this variable is set. Otherwise ``oobleck_stream`` in
        ``$XDG_CACHE_HOME`` (https://specifications.freedesktop.org/basedir-spec/latest/), or, if
        ``$XDG_CACHE_HOME`` isn't set either, in ``~/.cache``. None if ``$OOBLECK_STREAM_CACHE`` is
        ``off``, ``0``, ``no`` or ``false``.

    Raises
    ------
    OSError
        If the path depends on the home folder and the home folder is unknown.
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
    """Return why another user may have written to a file or folder; else an empty string.

    Files that belong to root are trusted. On Windows all files are trusted, because Windows has no
    such permissions.

    Parameters
    ----------
    found : os.stat_result
        The status of the file or folder.
    writable : int
        The mode bits that allow another user to write.
    """
    if not hasattr(os, "geteuid"):
        return ""
    if found.st_uid not in (0, os.geteuid()):
        return "belongs to another user"
    return "can be written by other users" if found.st_mode & writable else ""
