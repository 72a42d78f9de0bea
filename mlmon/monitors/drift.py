"""What drift monitors share: a summary that is a table of field sums, filled by an extractor.

A drift monitor turns events into fields (`stats.sums`), nothing more; whether a field has moved is judged in
`mlmon.drift`. How events become fields is fixed by a baseline's parameters for (service, model, version); a
series without a baseline has no fields.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields as fields_of
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from mlmon.baseline.model import Parameters, ScopeKey
from mlmon.errors import IncompatibleStateError
from mlmon.stats.pack import pack, unpack
from mlmon.stats.sums import FieldSums

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from mlmon.baseline.model import FieldSpec, FindParameters
    from mlmon.events.batch import EventBatch

__all__ = [
    "DriftMonitor",
    "DriftSummary",
    "Extractor",
    "FindExtractor",
    "Learner",
    "extractors",
    "make_parameters",
]

_FORM = 1


class Extractor(Protocol):
    """Turns events of one scope into field sums.

    Attributes:
        digest: of the parameters it was made from.
        fields: what it makes, by name.
    """

    digest: str
    fields: Mapping[str, FieldSpec]

    def extract(self, batch: EventBatch, into: Mapping[str, FieldSums]) -> None:
        """Add a batch of one series to the sums, which are by name of field. Vectorised; never raises."""
        ...


class Learner(Protocol):
    """Learns parameters from events: the first pass over a reference, in bounded memory."""

    def update(self, batch: EventBatch, part: int) -> None:
        """Take in events of one scope. Part 0 or 1, so that a null can be cross-fitted."""
        ...

    def finish(self, parts: tuple[int, ...]) -> Parameters | None:
        """Parameters learned from these parts only, or None where no event carried what is needed."""
        ...

    def warnings(self) -> list[str]:
        """What the maker of the baseline should know, such as constant dimensions."""
        ...


class DriftMonitor(Protocol):
    """What a monitor has beside `Monitor` when it makes fields."""

    name: str

    def learner(self) -> Learner:
        """A new first pass."""
        ...

    def extractor(self, parameters: Parameters) -> Extractor:
        """How events become fields under these parameters."""
        ...

    def drift(self, summary: Any) -> Mapping[str, FieldSums]:
        """The field sums in one of this monitor's summaries; empty where no baseline covers the series."""
        ...


def make_parameters(values: Mapping[str, Any], fields: Mapping[str, FieldSpec]) -> Parameters:
    """Parameters with the digest that goes with them: BLAKE2b of all they hold, in its order.

    Example:
        >>> one, other = (make_parameters({"bins": bins}, {}) for bins in (8, 9))
        >>> one.digest == make_parameters({"bins": 8}, {}).digest, one.digest == other.digest
        (True, False)
    """
    specs = [[name, [getattr(spec, part.name) for part in fields_of(spec)]] for name, spec in fields.items()]
    digest = hashlib.blake2b(pack([dict(values), specs]), digest_size=16).hexdigest()
    return Parameters(digest, values, fields)


#: Scope to its extractor.
FindExtractor: TypeAlias = "Callable[[ScopeKey], Extractor | None]"


def extractors(monitor: DriftMonitor, parameters: FindParameters) -> FindExtractor:
    """A look-up of a monitor's extractors that makes each of them once."""
    made: dict[str, Extractor] = {}

    def find(scope: ScopeKey) -> Extractor | None:
        found = parameters(monitor.name, scope)
        if found is None:
            return None
        if found.digest not in made:
            made[found.digest] = monitor.extractor(found)
        return made[found.digest]

    return find


class DriftSummary:
    """Field sums of one series. Empty until events of a scope with a baseline arrive.

    Attributes:
        fields: sums by name of field.
    """

    __slots__ = ("_extractor", "_find", "_scope", "fields")

    def __init__(self, find: FindExtractor) -> None:
        self._find = find
        self._scope: ScopeKey | None = None
        self._extractor: Extractor | None = None
        self.fields: dict[str, FieldSums] = {}

    def update(self, batch: EventBatch) -> None:
        """Take in a batch of one series; what mixes scopes (the overflow series) is left out."""
        scope = _scope_of(batch)
        if scope is None:
            return
        if scope != self._scope:
            if self._scope is not None:
                return
            self._bind(scope)
        if self._extractor is not None:
            self._extractor.extract(batch, self.fields)

    def _bind(self, scope: ScopeKey) -> None:
        self._scope, self._extractor = scope, self._find(scope)
        if self._extractor is not None and not self.fields:
            self.fields = {name: FieldSums(spec.width) for name, spec in self._extractor.fields.items()}

    @property
    def _digest(self) -> str:
        return "" if self._extractor is None else self._extractor.digest

    def merge(self, other: DriftSummary) -> None:
        """Take in another summary; of two scopes (the overflow series) the second is left out.

        Raises:
            IncompatibleStateError: they were made with different parameters.
        """
        if other._extractor is None or other._scope is None:
            return
        if self._extractor is None:
            self._bind(other._scope)
        if self._digest != other._digest:
            if self._scope != other._scope:
                return
            raise IncompatibleStateError(
                f"drift sums of baseline part {other._digest or 'none'} cannot be merged into those of "
                f"{self._digest or 'none'}"
            )
        for name, sums in other.fields.items():
            self.fields[name].merge(sums)

    def copy(self) -> DriftSummary:
        """An independent copy."""
        twin = DriftSummary(self._find)
        twin._scope, twin._extractor = self._scope, self._extractor
        twin.fields = {name: sums.copy() for name, sums in self.fields.items()}
        return twin

    def to_bytes(self) -> bytes:
        """The state, for the checkpoint; fields without events are left out."""
        fields = {name: sums.state() for name, sums in self.fields.items() if sums.n}
        scope = None if self._scope is None or self._extractor is None else list(self._scope)
        return pack([_FORM, scope, self._digest, fields])

    def restore(self, data: bytes) -> DriftSummary:
        """Fill this empty summary from `to_bytes`.

        Raises:
            IncompatibleStateError: the baseline is another one by now, or the form is.
        """
        form, *rest = unpack(data)
        if form != _FORM:
            raise IncompatibleStateError(f"stored drift summary has form {form}, expected {_FORM}")
        scope, digest, fields = rest
        if scope is not None:
            self._bind(ScopeKey(*scope))
        if digest != self._digest:
            raise IncompatibleStateError(
                f"drift sums were made with baseline part {digest or 'none'}, now it is "
                f"{self._digest or 'none'}"
            )
        for name, state in fields.items():
            self.fields[name] = FieldSums.restored(state, len(self.fields[name].total))
        return self


def _scope_of(batch: EventBatch) -> ScopeKey | None:
    """The scope that all events of a batch share, or None where they do not."""
    parts = [_only(*batch.codes(name)) for name in ("service", "model_name", "model_version")]
    return None if None in parts else ScopeKey(*(part or "" for part in parts))


def _only(codes: NDArray[np.int32], values: list[str]) -> str | None:
    if len(values) == 1:
        return values[0]
    return values[codes[0]] if len(codes) and bool((codes == codes[0]).all()) else None
