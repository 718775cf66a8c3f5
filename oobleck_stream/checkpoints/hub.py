"""Models from the Hugging Face hub: only the autoencoder's files are fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from oobleck_stream.checkpoints.configs import CONFIG_NAMES
from oobleck_stream.checkpoints.folder import AUTOENCODER_FOLDERS, choose_files
from oobleck_stream.errors import CheckpointError

_PATIENCE = 10.0


def fetch(repository: str) -> Path:
    """Fetch a repository's autoencoder into the hub's cache, or find it there.

    Parameters
    ----------
    repository : str
        ``organisation/name``.

    Returns
    -------
    Path
        A folder for `choose_files`.

    Raises
    ------
    CheckpointError
        When huggingface_hub is not installed, the repository is unknown, its licence is not
        accepted yet, it has no weights in a form that is read here, or the hub is out of reach.
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
        # Not list_repo_files: without a network that one tries for half a minute.
        info = huggingface_hub.HfApi().model_info(repository, timeout=_PATIENCE)
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
    except Exception as error:  # the hub's client may be built on any of several HTTP libraries
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
    """The folder of an earlier download, where there is one."""
    for folder in AUTOENCODER_FOLDERS:
        for name in CONFIG_NAMES:
            relative = name if folder == "." else f"{folder}/{name}"
            found = huggingface_hub.try_to_load_from_cache(repository, relative)
            if isinstance(found, str):
                return Path(found).parent
    return None
