"""Completes names of models and files in the shell, which click does not do by itself."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from oobleck_stream.config import PRESETS

MODELS = ("tiny", *(f"random:{name}" for name in PRESETS))


def files(_: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the names of files and folders, as the shell does."""
    return [CompletionItem(incomplete, type="file")]


def models(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the names of bundled and random models, and the names of files and folders."""
    # click's script for bash shows files only if no model matches, and only if the entry for files
    # comes first.
    named = [CompletionItem(name) for name in MODELS if name.startswith(incomplete)]
    return [*files(context, parameter, incomplete), *named]
