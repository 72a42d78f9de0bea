"""What should serve, from a file that people or a deployment pipeline write; read again when it changes.

TOML, or JSON of the same shape where the name ends in `.json`:

    version = 1

    [[expected]]
    service = "search"              # as in the events
    model = "intent"
    deployment = "stable"           # stable, canary or shadow; without it, every deployment not listed itself
    model_version = "2026-11-03"    # at least one of these four; what is left out may be anything
    model_digest = "9f86d081884c7d65"
    tokenizer_version = "7"
    tokenizer_digest = "60303ae22b998861"

    [[training]]                    # how the last training of a model ended, for the alert of a failed one
    service = "search"
    model = "intent"
    finished = 2026-11-03T04:12:00Z
    succeeded = true

Replace the file by renaming a new one over it. A half-written or broken file is reported and what was read
before stays in force.
"""

from __future__ import annotations

import logging
import tomllib
from collections import Counter
from datetime import datetime  # noqa: TC003 - msgspec reads the annotations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import msgspec

from mlmon.catalog.sidecar import REGISTRY_ENTRIES, REGISTRY_RELOADS, TRAINING_FAILED, TRAINING_TIME
from mlmon.errors import ConfigError
from mlmon.monitors.base import Sample
from mlmon.monitors.versions import Expected

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["VersionRegistry"]

_LOG = logging.getLogger(__name__)
_MAX_BYTES = 4 * 1024 * 1024
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=160)]


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    service: _Name
    model: _Name
    deployment: Literal["stable", "canary", "shadow"] | None = None
    model_version: _Name | None = None
    model_digest: _Name | None = None
    tokenizer_version: _Name | None = None
    tokenizer_digest: _Name | None = None

    def expected(self) -> Expected:
        return Expected(self.model_version, self.model_digest, self.tokenizer_version, self.tokenizer_digest)


class _Training(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    service: _Name
    model: _Name
    finished: Annotated[datetime, msgspec.Meta(tz=True)]
    succeeded: bool


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: Literal[1]
    expected: Annotated[list[_Entry], msgspec.Meta(max_length=10_000)]
    training: Annotated[list[_Training], msgspec.Meta(max_length=1_000)] = []


#: Service, model and deployment; the last empty where an entry speaks of all of them.
_Key = tuple[str, str, str]


class _Content(NamedTuple):
    expected: dict[_Key, Expected]
    training: tuple[_Training, ...]


#: Modification time (ns), size, inode: changes when the file is rewritten or renamed over.
_Stamp = tuple[int, int, int]


class VersionRegistry:
    """Expected versions by service, model and deployment (`monitors.versions.ExpectedVersions`).

    `refresh` belongs to the loop; `expected` may be asked from any thread and never touches the disk.

    Args:
        path: of the file.

    Attributes:
        error: why the file as it is now could not be read; empty when it could.
        reloads: times a changed file was taken over.
        failures: times a changed file was refused.

    Raises:
        ConfigError: the file cannot be read now. Later it may break without stopping anything.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._stamp: _Stamp | None = _stamp(self._path)
        self._content = _load(self._path)
        self.error = ""
        self.reloads = 0
        self.failures = 0

    def __len__(self) -> int:
        return len(self._content.expected)

    def expected(self, service: str, model: str, deployment: str) -> Expected | None:
        """The entry of exactly this deployment, else the one for all deployments, else None."""
        entries = self._content.expected
        return entries.get((service, model, deployment)) or entries.get((service, model, ""))

    def refresh(self) -> bool:
        """Read the file again if it was changed since; cheap when not. Never raises.

        Returns:
            Whether other expectations are in force now.
        """
        try:
            stamp = _stamp(self._path)
        except ConfigError as error:
            self._refuse(None, str(error))
            return False
        if stamp == self._stamp:
            return False
        try:
            content = _load(self._path)
        except ConfigError as error:
            self._refuse(stamp, str(error))
            return False
        # the stamp of before reading: what is written meanwhile is read next time
        self._stamp, self.error = stamp, ""
        self.reloads += 1
        changed = content.expected != self._content.expected
        self._content = content
        _LOG.info("version registry %s read again: %d entries", self._path, len(self))
        return changed

    def _refuse(self, stamp: _Stamp | None, error: str) -> None:
        if stamp != self._stamp:
            self.failures += 1
            _LOG.error("%s; what was read before stays in force", error)
        self._stamp, self.error = stamp, error

    def samples(self) -> Iterable[Sample]:
        """What to publish of it."""
        yield Sample(REGISTRY_RELOADS, ("ok",), float(self.reloads))
        yield Sample(REGISTRY_RELOADS, ("refused",), float(self.failures))
        yield Sample(REGISTRY_ENTRIES, (), float(len(self)))
        for run in self._content.training:
            yield Sample(TRAINING_FAILED, (run.service, run.model), float(not run.succeeded))
            yield Sample(TRAINING_TIME, (run.service, run.model), run.finished.timestamp())


def _stamp(path: Path) -> _Stamp:
    try:
        stat = path.stat()
    except OSError as error:
        raise ConfigError(
            f"version registry {path}: expected a readable file, got: {error.strerror}: create it, or remove "
            "registry.versions_file from the configuration"
        ) from error
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _load(path: Path) -> _Content:
    content = _parse(path)
    try:
        file = msgspec.convert(content, _File)
    except msgspec.ValidationError as error:
        raise ConfigError(f"version registry {path}: {error}") from error
    entries: dict[_Key, Expected] = {}
    for number, entry in enumerate(file.expected, 1):
        key = (entry.service, entry.model, entry.deployment or "")
        where = f"version registry {path}: entry {number} ({entry.service}, {entry.model}"
        where += f", {entry.deployment})" if entry.deployment else ")"
        if key in entries:
            raise ConfigError(f"{where}: expected one entry for each, got a second: remove one")
        if not any(entry.expected().parts()):
            raise ConfigError(
                f"{where}: expected at least one of model_version, model_digest, tokenizer_version, "
                "tokenizer_digest"
            )
        entries[key] = entry.expected()
    trained = Counter((run.service, run.model) for run in file.training)
    for (service, model), count in trained.items():
        if count > 1:
            raise ConfigError(
                f"version registry {path}: training ({service}, {model}): expected the last run alone, "
                f"got {count}: remove the others"
            )
    return _Content(entries, tuple(file.training))


def _parse(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ConfigError(
                f"version registry {path}: expected at most {_MAX_BYTES} bytes, got more: "
                "is it the right file?"
            )
        if path.suffix == ".json":
            return msgspec.json.decode(data)
        return tomllib.loads(data.decode())
    except OSError as error:
        raise ConfigError(
            f"version registry {path}: expected a readable file, got: {error.strerror}"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
        form = "JSON" if path.suffix == ".json" else "TOML"
        raise ConfigError(f"version registry {path}: expected {form}, got: {error}") from error
