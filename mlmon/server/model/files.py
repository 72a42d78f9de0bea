"""Where a model's files are, whether they are safe to read, and their digests.

A name that is a directory is one; another name is looked up on the hub. Of the hub only configuration,
vocabulary and safetensors files are fetched; pickle is neither fetched nor read, and code that comes with a
model is never run.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlmon.errors import ConfigError

__all__ = ["ModelFiles", "find_model", "read_json"]

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("pytorch_model*.bin", "pytorch_model*.pt", "tf_model.h5", "flax_model.msgpack")
#: What is fetched from the hub; files in folders (onnx, openvino) never are.
_WANTED, _UNWANTED = ["*.json", "*.safetensors", "vocab.txt", "merges.txt", "*.model"], ["*/*"]
_CONVERT = (
    "from transformers import AutoModelForMaskedLM, AutoTokenizer; "
    'd = "{target}"; '
    'AutoModelForMaskedLM.from_pretrained("{source}").save_pretrained(d); '
    'AutoTokenizer.from_pretrained("{source}").save_pretrained(d)'
)


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of one model.

    Attributes:
        name: the hub id, or the directory's own name.
        directory: where they are.
        shards: weight files, sorted by name.
        revision: commit on the hub; None for a directory.
    """

    name: str
    directory: Path
    shards: tuple[Path, ...]
    revision: str | None

    def digest(self) -> str:
        """Digest of the weights: what an event's `model_digest` carries.

        Of one file it is what `sha256sum model.safetensors` prints; of several, the SHA-256 of what
        `sha256sum model-*.safetensors` prints.
        """
        digests = [(_sha256(shard), shard.name) for shard in self.shards]
        if len(digests) == 1:
            return digests[0][0]
        return hashlib.sha256("".join(f"{d}  {name}\n" for d, name in digests).encode()).hexdigest()


def find_model(
    source: str | Path, revision: str | None, cache_dir: str | None, *, offline: bool
) -> ModelFiles:
    """Find a model's files; fetch them if need be.

    Args:
        source: a directory, or a hub id such as `google-bert/bert-base-uncased`.
        revision: branch, tag or commit on the hub; not for directories.
        cache_dir: where the hub's files are kept; None is the hub's usual place.
        offline: take only what is in the cache.

    Raises:
        ConfigError: there is no such model, the hub cannot be reached, or it has no safetensors weights.
    """
    path = Path(source)
    if path.is_dir() and str(source):
        if revision is not None:
            raise ConfigError(f"revision {revision!r} is for models on the hub; {str(path)!r} is a directory")
        return ModelFiles(path.resolve().name, path, _shards(path, str(source)), None)
    name = str(source)
    if path.is_absolute() or name.startswith(".") or name.count("/") > 1 or not name:
        raise ConfigError(
            f"model {name!r}: there is no such directory; expected a directory with config.json and "
            "model.safetensors, or a hub id such as google-bert/bert-base-uncased"
        )
    directory = _fetch(name, revision, cache_dir, offline)
    return ModelFiles(name, directory, _shards(directory, name), directory.name)


def read_json(path: Path, *, required: bool = False) -> dict[str, Any]:
    """Read a JSON object; {} where there is no such file.

    Raises:
        ConfigError: it is required and missing, or is no JSON object.
    """
    if not path.is_file() and not required:
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"model file {str(path)!r} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"model file {str(path)!r}: expected a JSON object, got {type(value).__name__}")
    return value


def _fetch(name: str, revision: str | None, cache_dir: str | None, offline: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(
            name,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=offline,
            allow_patterns=_WANTED,
            ignore_patterns=_UNWANTED,
        )
    except LocalEntryNotFoundError as error:
        where = "in the cache" if offline else "on the hub, or the hub cannot be reached"
        raise ConfigError(
            f"model {name!r} (revision {revision or 'main'}) is not {where}; expected a directory or a "
            "hub id; to run without the network, fetch it once beforehand or give its directory"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ConfigError(f"model {name!r} cannot be fetched from the hub: {error}") from error
    return Path(found)


def _shards(directory: Path, source: str) -> tuple[Path, ...]:
    if (directory / _SINGLE).is_file():
        return (directory / _SINGLE,)
    if (directory / _INDEX).is_file():
        return _indexed(directory)
    pickles = sorted(file.name for pattern in _PICKLES for file in directory.glob(pattern))
    if pickles:
        raise ConfigError(
            f"model {source!r} has its weights as {', '.join(pickles)} only; expected {_SINGLE}, since "
            "pickle can run code when it is read. Convert it once, where you trust it:\n"
            f"  python -c '{_CONVERT.format(source=source, target=Path(source).name + '-safetensors')}'"
        )
    raise ConfigError(
        f"model {source!r} has no weights: expected {_SINGLE} or {_INDEX} in {str(directory)!r}"
    )


def _indexed(directory: Path) -> tuple[Path, ...]:
    names = read_json(directory / _INDEX).get("weight_map", {})
    files = sorted(set(names.values())) if isinstance(names, dict) else []
    for name in files:
        # the index is a stranger's file: it may not lead outside the directory, nor to another format
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise ConfigError(
                f"{_INDEX} in {str(directory)!r}: expected names of .safetensors files, got {name!r}"
            )
        if not (directory / name).is_file():
            raise ConfigError(f"{_INDEX} in {str(directory)!r} names {name}, which is not there")
    if not files:
        raise ConfigError(f"{_INDEX} in {str(directory)!r} names no weight files")
    return tuple(directory / name for name in files)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
