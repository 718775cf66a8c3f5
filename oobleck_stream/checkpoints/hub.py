"""Downloads models from the Hugging Face hub, but only the files of the autoencoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from oobleck_stream.checkpoints.configs import CONFIG_NAMES
from oobleck_stream.checkpoints.folder import AUTOENCODER_FOLDERS, choose_files
from oobleck_stream.errors import CheckpointError

_TIMEOUT = 10.0
"""Timeout in seconds of the request that lists the files of a repository."""


def fetch(repository: str) -> Path:
    """Download the autoencoder of a repository into the hub's cache, unless it is there already.

    If the hub can't be reached, an earlier download is used.

    Parameters
    ----------
    repository : str
        ``organisation/name``.

    Returns
    -------
    Path
        A folder with the files, which `list_files` and `choose_files` can find there.

    Raises
    ------
    CheckpointError
        If huggingface_hub is not installed, if the repository is unknown, if its licence has not
        been accepted, or if it has no weights in a supported format. Also if the hub can't be
        reached and there is no earlier download.
    """
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError:
        raise CheckpointError(
            repository,
            "no such file or folder here; models of the hub need one package more: "
            "pip install 'oobleck_stream[hub]'",
        ) from None
    try:
        # list_repo_files is not used, because it takes half a minute to fail without a network.
        info = huggingface_hub.HfApi().model_info(repository, timeout=_TIMEOUT)
        choice = choose_files(repository, [file.rfilename for file in info.siblings or ()])
        folder = huggingface_hub.snapshot_download(repository, allow_patterns=choice.patterns)
    except CheckpointError:
        raise
    except errors.GatedRepoError:
        raise CheckpointError(
            repository,
            f"its licence has to be accepted first: do so on https://huggingface.co/{repository}, "
            "then log in with: hf auth login",
        ) from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(
            repository,
            "neither a file or folder here nor a model on the hub (for a private one: hf auth "
            "login)",
        ) from None
    except errors.HFValidationError:
        raise CheckpointError(repository, "no such file or folder") from None
    except Exception as error:  # The classes of network errors depend on the HTTP library.
        cached = _cached(huggingface_hub, repository)
        if cached is None:
            raise CheckpointError(
                repository,
                "no such file or folder here, and it can't be fetched from the hub "
                f"({type(error).__name__}: {str(error).partition('.')[0]})",
            ) from error
        return cached
    return Path(folder)


def _cached(huggingface_hub: Any, repository: str) -> Path | None:
    """Return the folder of an earlier download, if it has a config; None if there is none."""
    for folder in AUTOENCODER_FOLDERS:
        for name in CONFIG_NAMES:
            relative = name if folder == "." else f"{folder}/{name}"
            found = huggingface_hub.try_to_load_from_cache(repository, relative)
            if isinstance(found, str):
                return Path(found).parent
    return None
