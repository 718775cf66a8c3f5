"""Chooses a checkpoint's files from a folder, or from a repository on the hub."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from oobleck_stream.checkpoints.configs import CONFIG_NAMES
from oobleck_stream.checkpoints.opening import PICKLE_SUFFIXES, pickle_hint
from oobleck_stream.errors import CheckpointError
from oobleck_stream.formats.sharded import INDEX_SUFFIX

AUTOENCODER_FOLDERS = ("sound_tokenizer", "vae", ".")
"""Folders of a diffusers pipeline that may contain the audio autoencoder, in order of preference.

``sound_tokenizer`` precedes ``vae``, because the ``vae`` of Cosmos3 encodes images.
"""

# The names that diffusers and transformers write.
_USUAL_NAMES = ("diffusion_pytorch_model.safetensors", "model.safetensors")


@dataclass(frozen=True)
class CheckpointFiles:
    """The chosen files, as paths relative to the folder.

    Parameters
    ----------
    weights : str
        The file with the weights, or the index of a sharded checkpoint.
    config : str or None
        The config file beside the weights; None if there is no config file.
    """

    weights: str
    config: str | None

    @property
    def patterns(self) -> list[str]:
        """Glob patterns of the files to download from a repository."""
        found = [self.weights] if self.config is None else [self.weights, self.config]
        if self.weights.endswith(INDEX_SUFFIX):
            found.append(f"{self.weights[: -len(INDEX_SUFFIX)]}-*.safetensors")
        return found


def choose_files(source: object, names: Collection[str]) -> CheckpointFiles:
    """Choose the weights and the config from a list of files.

    Parameters
    ----------
    source : object
        The folder or repository, for error messages.
    names : collection of str
        Paths relative to the folder, with forward slashes.

    Raises
    ------
    CheckpointError
        If there are no weights, or if there are several files and no rule decides between them.
    """
    for folder in AUTOENCODER_FOLDERS:
        inside = {PurePosixPath(name).name: name for name in names if _folder(name) == folder}
        weights = _choose_weights(source, sorted(inside))
        if weights is not None:
            config = next((inside[name] for name in CONFIG_NAMES if name in inside), None)
            return CheckpointFiles(inside[weights], config)
    pickles = [name for name in sorted(names) if name.endswith(PICKLE_SUFFIXES)]
    if pickles:
        raise CheckpointError(source, f"no .safetensors in it; {pickle_hint(pickles[0])}")
    raise CheckpointError(source, "no .safetensors in it")


def _folder(name: str) -> str:
    return str(PurePosixPath(name).parent)


def _choose_weights(source: object, names: list[str]) -> str | None:
    """Choose a file with a usual name, or else the only index, or else the only .safetensors."""
    for name in _USUAL_NAMES:
        for usual in (name, name.replace(".safetensors", INDEX_SUFFIX)):
            if usual in names:
                return usual
    candidates = [name for name in names if name.endswith(INDEX_SUFFIX)]
    candidates = candidates or [name for name in names if name.endswith(".safetensors")]
    if len(candidates) > 1:
        raise CheckpointError(
            source, f"which file is meant? give one of these: {', '.join(candidates)}"
        )
    return candidates[0] if candidates else None


def list_files(folder: Path) -> list[str]:
    """Return the paths, relative to `folder`, from which `choose_files` can choose."""
    found = []
    try:
        for name in AUTOENCODER_FOLDERS:
            if (folder / name).is_dir():
                found += [
                    path.relative_to(folder).as_posix()
                    for path in (folder / name).iterdir()
                    if path.is_file()
                ]
    except OSError as error:
        raise CheckpointError(folder, f"can't be read: {error.strerror or error}") from error
    return found
