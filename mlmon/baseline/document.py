"""A baseline as plain values and named arrays, and back: what `baseline.file` stores.

Arrays are named by the BLAKE2b-256 of their type, shape and bytes, so equal arrays (the whitening that all
segments share) are stored once and come back as one object. Field specifications are kept once each, too.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from mlmon.baseline.model import (
    Baseline,
    FieldReference,
    FieldSpec,
    Parameters,
    Scope,
    ScopeKey,
    Segment,
)
from mlmon.stats.sums import FieldSums

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Arrays", "array_name", "canonical", "from_document", "to_document"]

Arrays = dict[str, np.ndarray[Any, Any]]

#: Keys of objects that stand for what JSON has not; a mapping with such a key is wrapped in one itself.
_ARRAY, _FLOAT, _MAPPING = "$array", "$float", "$mapping"


def canonical(document: Any) -> bytes:
    """The one JSON text of a document: keys in their order (it is content), no spaces, ASCII.

    Example:
        >>> canonical({"b": [1, 0.5], "a": "x"})
        b'{"b":[1,0.5],"a":"x"}'
    """
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode("ascii")


def array_name(array: np.ndarray[Any, Any]) -> str:
    """BLAKE2b-256 of an array's type, shape and bytes, hex."""
    digest = hashlib.blake2b(f"{array.dtype.str}{list(array.shape)}".encode(), digest_size=32)
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def to_document(baseline: Baseline) -> tuple[dict[str, Any], Arrays]:
    """The content of a baseline: everything but `created_us` and `digest`.

    Raises:
        TypeError: a monitor's parameters hold what cannot be stored.
    """
    return _Writer().write(baseline)


def from_document(document: Mapping[str, Any], arrays: Arrays, created_us: int, digest: str) -> Baseline:
    """The baseline that `to_document` took apart.

    Raises:
        KeyError, TypeError, ValueError, IndexError: the document is not of this form.
    """
    return _Reader(arrays, document["specs"]).read(document, created_us, digest)


class _Writer:
    """Takes a baseline apart, collecting arrays and specifications."""

    def __init__(self) -> None:
        self._arrays: Arrays = {}
        self._named: dict[int, tuple[np.ndarray[Any, Any], str]] = {}
        self._specs: list[dict[str, Any]] = []
        self._spec_places: dict[bytes, int] = {}
        self._spec_ids: dict[int, tuple[FieldSpec, int]] = {}

    def write(self, baseline: Baseline) -> tuple[dict[str, Any], Arrays]:
        scopes = [[*key, self._scope(scope)] for key, scope in sorted(baseline.scopes.items())]
        document = {
            "scopes": scopes,
            "source": baseline.source,
            "specs": self._specs,
            "warnings": list(baseline.warnings),
        }
        return document, self._arrays

    def _scope(self, scope: Scope) -> dict[str, Any]:
        return {
            "block": int(scope.block),
            "burst": self._value(scope.burst),
            "first_us": int(scope.first_us),
            "last_us": int(scope.last_us),
            "parameters": {name: self._parameters(made) for name, made in scope.parameters.items()},
            "sample": None if scope.sample is None else self._value(_table_bytes(scope.sample)),
            "segments": {name: self._segment(segment) for name, segment in sorted(scope.segments.items())},
        }

    def _parameters(self, made: Parameters) -> dict[str, Any]:
        return {
            "digest": made.digest,
            # A list, since the order of fields is the monitor's own.
            "fields": [[name, self._spec(spec)] for name, spec in made.fields.items()],
            "values": self._value(dict(made.values)),
        }

    def _segment(self, segment: Segment) -> dict[str, Any]:
        fields = [
            [
                name,
                self._spec(reference.spec),
                self._value(np.concatenate([reference.sums.size, reference.sums.total])),
                self._value(reference.trace),
                self._value(reference.trace2),
                self._value(reference.wander),
                int(reference.blocks),
            ]
            for name, reference in segment.fields.items()
        ]
        return {"events": int(segment.events), "fields": fields, "problems": dict(segment.problems)}

    def _spec(self, spec: FieldSpec) -> int:
        known = self._spec_ids.get(id(spec))
        if known is not None:
            return known[1]
        written = {
            "clip": self._value(spec.clip),
            "edges": self._value(spec.edges),
            "kind": spec.kind,
            "names": list(spec.names),
            "tolerance": self._value(spec.tolerance),
            "whiten": self._value(spec.whiten),
            "width": int(spec.width),
        }
        place = self._spec_places.setdefault(canonical(written), len(self._specs))
        if place == len(self._specs):
            self._specs.append(written)
        self._spec_ids[id(spec)] = (spec, place)
        return place

    def _value(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return {_ARRAY: self._array(value)}
        if isinstance(value, np.generic):
            return self._value(value.item())
        if value is None or isinstance(value, bool | int | str):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else {_FLOAT: repr(value)}
        if isinstance(value, list | tuple):
            return [self._value(item) for item in value]
        if isinstance(value, dict):
            if not all(isinstance(key, str) for key in value):
                raise TypeError(f"a baseline's mappings have strings as keys, got {list(value)[:3]}")
            plain = {key: self._value(item) for key, item in value.items()}
            return {_MAPPING: plain} if plain.keys() & {_ARRAY, _FLOAT, _MAPPING} else plain
        raise TypeError(
            f"a baseline cannot hold {type(value).__name__}: expected arrays, numbers, strings, lists, dicts"
        )

    def _array(self, array: np.ndarray[Any, Any]) -> str:
        known = self._named.get(id(array))
        if known is not None:
            return known[1]
        if array.dtype.kind not in "biuf" or array.dtype.byteorder == ">":
            raise TypeError(f"a baseline cannot hold an array of {array.dtype}: expected numbers or booleans")
        name = array_name(array)
        self._arrays.setdefault(name, np.ascontiguousarray(array).reshape(array.shape))
        self._named[id(array)] = (array, name)
        return name


class _Reader:
    """Puts a baseline together."""

    def __init__(self, arrays: Arrays, specs: list[dict[str, Any]]) -> None:
        self._arrays = arrays
        self._specs = [self._spec(spec) for spec in specs]

    def read(self, document: Mapping[str, Any], created_us: int, digest: str) -> Baseline:
        scopes = {
            ScopeKey(service, model, version): self._scope(scope)
            for service, model, version, scope in document["scopes"]
        }
        warnings = tuple(document["warnings"])
        return Baseline(scopes, created_us, document["source"], warnings, digest)

    def _scope(self, scope: Mapping[str, Any]) -> Scope:
        sample = self._value(scope["sample"])
        return Scope(
            parameters={name: self._parameters(made) for name, made in scope["parameters"].items()},
            segments={name: self._segment(segment) for name, segment in scope["segments"].items()},
            first_us=scope["first_us"],
            last_us=scope["last_us"],
            burst=self._value(scope["burst"]),
            block=scope["block"],
            sample=None if sample is None else _table_of(sample),
        )

    def _parameters(self, made: Mapping[str, Any]) -> Parameters:
        fields = {name: self._specs[place] for name, place in made["fields"]}
        return Parameters(made["digest"], self._value(made["values"]), fields)

    def _segment(self, segment: Mapping[str, Any]) -> Segment:
        fields = {name: self._reference(*rest) for name, *rest in segment["fields"]}
        return Segment(fields, segment["events"], segment["problems"])

    def _reference(
        self, spec: int, sums: Any, trace: Any, trace2: Any, wander: Any, blocks: int
    ) -> FieldReference:
        stored = self._value(sums)
        total = FieldSums.restored((stored[:3].copy(), stored[3:].copy()), self._specs[spec].width)
        made = [self._value(value) for value in (trace, trace2, wander)]
        return FieldReference(self._specs[spec], total, made[0], made[1], made[2], blocks)

    def _spec(self, spec: Mapping[str, Any]) -> FieldSpec:
        clip = self._value(spec["clip"])
        return FieldSpec(
            kind=spec["kind"],
            width=spec["width"],
            names=tuple(spec["names"]),
            edges=self._value(spec["edges"]),
            whiten=self._value(spec["whiten"]),
            tolerance=self._value(spec["tolerance"]),
            clip=None if clip is None else (clip[0], clip[1]),
        )

    def _value(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._value(item) for item in value]
        if not isinstance(value, dict):
            return value
        if value.keys() == {_ARRAY}:
            return self._arrays[value[_ARRAY]]
        if value.keys() == {_FLOAT}:
            return float(value[_FLOAT])
        plain = value[_MAPPING] if value.keys() == {_MAPPING} else value
        return {key: self._value(item) for key, item in plain.items()}


def _table_bytes(table: pa.Table) -> np.ndarray[Any, Any]:
    """The table as one Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return np.frombuffer(sink.getvalue(), np.uint8)


def _table_of(stream: np.ndarray[Any, Any]) -> pa.Table:
    table = pa.ipc.open_stream(pa.py_buffer(stream)).read_all()
    table.validate(full=True)
    return table
