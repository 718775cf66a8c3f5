"""What the shell completes after an option or for an argument, if it does not know by itself."""

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
    """Complete the models that are not files, or else the names of files and folders."""
    # bash shows files only if no name follows them.
    named = [CompletionItem(name) for name in MODELS if name.startswith(incomplete)]
    return [*files(context, parameter, incomplete), *named]
