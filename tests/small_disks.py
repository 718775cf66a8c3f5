"""Disks that are full at an exact byte, or have an exact number of free pages."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import tempfile
from pathlib import Path

import pytest

PAGE = 4096
FILLER = "filler"
"""A file on every small disk that is not part of the test."""


@contextlib.contextmanager
def memory_folder():
    """A temporary folder in memory, if that is possible, because flushing to a disk is slow."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Path(folder)


@contextlib.contextmanager
def file_size_limit(size):
    """Make writes fail that would extend a file beyond `size` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def small_disk(folder, pages, prepare=lambda folder: None):
    """Mount a disk that has `pages` free pages after `prepare` has written to it.

    Skips the test if this process can't mount one.
    """
    folder.mkdir(exist_ok=True)
    options = ["mount", "-t", "tmpfs", "-o", "size=64M", "oobleck", str(folder)]
    try:
        done = subprocess.run(options, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no mount program")
    if done.returncode:
        pytest.skip(f"can't mount a tmpfs: {done.stderr.decode().strip()}")
    try:
        # A size of 0 means no limit.
        (folder / FILLER).write_bytes(b"x")
        prepare(folder)
        used = os.statvfs(folder)
        size = (used.f_blocks - used.f_bfree) * used.f_frsize + pages * PAGE
        options[4] = f"remount,size={size}"
        subprocess.run(options, check=True, capture_output=True)
        assert os.statvfs(folder).f_bavail * used.f_frsize == pages * PAGE
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True, capture_output=True)
