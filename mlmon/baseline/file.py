"""A baseline in one portable file: safetensors, with a document of plain values in its metadata. No pickle.

The digest is BLAKE2b-256 over the document, which names every array by the BLAKE2b-256 of its own content; so
it covers everything but `created_us`, and the same events give the same digest whenever they are built.
Loading checks all of it. It tells that a file is whole and unchanged, not who made it: pin the digest where
that matters.

Paths are local, or URLs of any file system that fsspec knows (`s3://bucket/name` needs its package s3fs).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from mlmon.baseline.document import array_name, canonical, from_document, to_document
from mlmon.errors import BaselineError

if TYPE_CHECKING:
    from mlmon.baseline.document import Arrays
    from mlmon.baseline.model import Baseline

__all__ = ["SUFFIX", "baseline_digest", "is_there", "load_baseline", "save_baseline"]

#: How names of baseline files end.
SUFFIX = ".baseline.safetensors"
#: Form of the document. A file of a newer one is refused.
_FORM = 1
_KEY = "mlmon-baseline"
_STEP = 1 << 20
#: A larger file is no baseline: 50 scopes with embeddings make some 300 MiB.
_MAX_BYTES = 4 << 30


def baseline_digest(baseline: Baseline) -> str:
    """BLAKE2b-256 of a baseline's content, hex: everything but `created_us` and `digest`."""
    return _digest(to_document(baseline)[0])


def is_there(path: str) -> bool:
    """Whether there is something at a path or URL.

    Raises:
        BaselineError: that cannot be said.
    """
    try:
        system, inside = fsspec.core.url_to_fs(path)
        return bool(system.exists(inside))
    except Exception as error:  # file systems of fsspec raise what their libraries do
        raise BaselineError(f"the baseline {path} cannot be reached ({_reason(error)})") from error


def save_baseline(baseline: Baseline, path: str) -> Baseline:
    """Write a baseline to a path or URL; a local file is replaced in one step.

    Returns:
        The baseline with its digest.

    Raises:
        BaselineError: the place cannot be written.
        TypeError: a monitor's parameters hold what cannot be stored.
    """
    document, arrays = to_document(baseline)
    digest = _digest(document)
    header = {"content": document, "created_us": baseline.created_us, "digest": digest, "form": _FORM}
    data = save_arrays(arrays, {_KEY: canonical(header).decode("ascii")})
    try:
        system, inside = fsspec.core.url_to_fs(path)
        if isinstance(system, LocalFileSystem):
            _replace(Path(inside), data)
        else:
            with system.open(inside, "wb") as file:
                file.write(data)
    except Exception as error:  # file systems of fsspec raise what their libraries do
        raise BaselineError(f"the baseline {path} cannot be written ({_reason(error)})") from error
    return dataclasses.replace(baseline, digest=digest)


def load_baseline(path: str, digest: str | None = None) -> Baseline:
    """Read a baseline from a path or URL and check all of it.

    Args:
        path: of the file.
        digest: the digest it must have, when it is pinned.

    Raises:
        BaselineError: it cannot be read, is no baseline, is damaged, of a newer form or not the pinned one.
    """
    data = _read(path)
    header = _header(path, data)
    arrays = _arrays(path, data)
    found = _digest(header["content"], header["form"])
    if found != header["digest"]:
        raise BaselineError(
            f"{path} is damaged or was changed: its digest is {found}, it should be {header['digest']}; "
            "build it again or take it from where it came"
        )
    if digest is not None and found != digest.lower():
        raise BaselineError(
            f"{path} is another baseline: its digest is {found}, pinned is {digest}; correct the "
            "path or the pin"
        )
    try:
        return from_document(header["content"], arrays, int(header["created_us"]), found)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise BaselineError(f"{path} is not of form {_FORM} although it says so: {_reason(error)}") from error


def _digest(document: Any, form: Any = _FORM) -> str:
    content = canonical({"content": document, "form": form})
    return hashlib.blake2b(content, digest_size=32).hexdigest()


def _replace(path: Path, data: bytes) -> None:
    """Write beside the file, then take its place, so that nobody ever reads half of one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _read(path: str) -> bytes:
    """The whole file, in steps, so that a path to something endless does not fill the memory."""
    data = bytearray()
    try:
        with fsspec.open(path, "rb") as file:
            while step := file.read(_STEP):
                data += step
                if len(data) > _MAX_BYTES:
                    break
    except Exception as error:  # file systems of fsspec raise what their libraries do
        raise BaselineError(
            f"the baseline {path} cannot be read ({_reason(error)}): correct the path, or build it with "
            "mlmon baseline build"
        ) from error
    if len(data) > _MAX_BYTES:
        raise BaselineError(f"{path} is no baseline: it has more than {_MAX_BYTES >> 30} GiB")
    return bytes(data)


def _header(path: str, data: bytes) -> dict[str, Any]:
    """The document in the metadata, of a form that this version reads."""
    size = int.from_bytes(data[:8], "little")
    try:
        header: dict[str, Any] = json.loads(json.loads(data[8 : 8 + size])["__metadata__"][_KEY])
        form = int(header["form"])
        if form <= _FORM:
            header = {key: header[key] for key in ("content", "created_us", "digest", "form")}
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise BaselineError(
            f"{path} is no baseline ({_reason(error)}): expected a file that mlmon baseline build wrote"
        ) from error
    if form > _FORM:
        raise BaselineError(
            f"{path} was written by a newer mlmon: its form is {form}, this one reads up to {_FORM}; upgrade "
            "mlmon or build the baseline with this one"
        )
    return header


def _arrays(path: str, data: bytes) -> Arrays:
    """The arrays, each with the content that its name stands for."""
    try:
        arrays: Arrays = load_arrays(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise BaselineError(
            f"{path} is damaged ({_reason(error)}): build it again or take it from where it came"
        ) from error
    for name, array in arrays.items():
        found = array_name(array)
        if found != name:
            raise BaselineError(
                f"{path} is damaged or was changed: an array of it has digest {found}, it should be {name}; "
                "build it again or take it from where it came"
            )
    return arrays


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".split("\n", 1)[0][:300]
