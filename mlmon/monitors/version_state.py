"""What is kept of served versions: counts by version within a cap, and differences from what is expected."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from mlmon.errors import IncompatibleStateError
from mlmon.events.batch import distinct_rows
from mlmon.stats.counts import count_cells
from mlmon.stats.pack import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from mlmon.events.batch import EventBatch

__all__ = [
    "ANY",
    "CHECKED",
    "KINDS",
    "OTHER",
    "UNREPORTED",
    "Expected",
    "ExpectedVersions",
    "Identity",
    "Tally",
    "VersionsSummary",
    "nothing_expected",
]

#: Form of the stored state.
_FORM = 1
#: Parts of a version that can differ; the label `kind` also takes `unreported`.
KINDS = ("model_version", "model_digest", "tokenizer_version", "tokenizer_digest")
UNREPORTED, ANY, CHECKED = len(KINDS), len(KINDS) + 1, len(KINDS) + 2
#: Rows of `VersionsSummary.checks`.
_CHECKS = len(KINDS) + 3
#: Longest version or digest kept: a SHA-512 in hex with its prefix fits.
_MAX_LENGTH = 160
_FIELDS = ("service", "model_name", "deployment", *KINDS)


class Identity(NamedTuple):
    """Everything an event says of the version that answered; empty where it does not say."""

    model_version: str
    model_digest: str
    tokenizer_version: str
    tokenizer_digest: str
    deployment: str


#: Where versions beyond the cap are counted.
OTHER = Identity("other", "other", "other", "other", "other")


@dataclass(frozen=True, slots=True)
class Expected:
    """What should serve; None where anything may."""

    model_version: str | None = None
    model_digest: str | None = None
    tokenizer_version: str | None = None
    tokenizer_digest: str | None = None

    def parts(self) -> tuple[str | None, ...]:
        """In the order of `KINDS`."""
        return (self.model_version, self.model_digest, self.tokenizer_version, self.tokenizer_digest)


class ExpectedVersions(Protocol):
    """Knows what should serve: `mlmon.registry.file.VersionRegistry`."""

    def expected(self, service: str, model: str, deployment: str) -> Expected | None:
        """What should serve, or None where nothing is said. Must not block."""
        ...


class _NothingExpected:
    def expected(self, service: str, model: str, deployment: str) -> Expected | None:  # noqa: ARG002 - protocol
        return None


#: No registry is configured.
nothing_expected: ExpectedVersions = _NothingExpected()


@dataclass(slots=True)
class Tally:
    """n, Σw, Σw², first and last event time (µs) of one version."""

    n: float
    weight: float
    squared: float
    first_us: int
    last_us: int

    def add(self, other: Tally) -> None:
        """Take in another, which stays as it is."""
        self.n += other.n
        self.weight += other.weight
        self.squared += other.squared
        self.first_us = min(self.first_us, other.first_us)
        self.last_us = max(self.last_us, other.last_us)

    def copy(self) -> Tally:
        """An independent copy."""
        return Tally(self.n, self.weight, self.squared, self.first_us, self.last_us)

    def state(self) -> list[float]:
        """What `stats.pack` stores, in the order of the attributes."""
        return [self.n, self.weight, self.squared, self.first_us, self.last_us]


class VersionsSummary:
    """Counts by version, at most `limit`, and counts of what differed from the registry.

    Which versions stay when there are too many is decided by a hash of the version, the smallest hashes
    stay: a version that was let go can never come back, so merging is associative and commutative and the
    counts that remain are exact, whatever the order. Keeping the first or the largest would not be. Memory:
    about 300 bytes a version, and 1 kB of long digests.

    Attributes:
        tallies: by version, those kept.
        other: of all the rest, None where there is none.
        checks: n, Σw, Σw² by kind of mismatch, then unreported, any mismatch, checked; shape (7, 3).
    """

    __slots__ = ("_expected", "_highest", "checks", "limit", "other", "tallies")

    def __init__(self, limit: int, expected: ExpectedVersions) -> None:
        self.limit = limit
        self._expected = expected
        self._highest: bytes | None = None
        self.tallies: dict[Identity, Tally] = {}
        self.other: Tally | None = None
        self.checks = np.zeros((_CHECKS, 3))

    def update(self, batch: EventBatch) -> None:
        """Take in a batch."""
        if not len(batch):
            return
        columns = [batch.codes(name, "stable" if name == "deployment" else "") for name in _FIELDS]
        cells, values = distinct_rows(columns, len(batch))
        counts = count_cells(cells, batch.weights(), len(values))
        times = batch.times()
        first = np.full(len(values), np.iinfo(np.int64).max)
        last = np.full(len(values), np.iinfo(np.int64).min)
        np.minimum.at(first, cells, times)
        np.maximum.at(last, cells, times)
        rows = zip(values, counts, counts.tolist(), first.tolist(), last.tolist(), strict=True)
        for (service, model, deployment, *parts), triple, (n, weight, squared), low, high in rows:
            self._check(self._expected.expected(service, model, deployment), parts, triple)
            clipped = (part[:_MAX_LENGTH] for part in (*parts, deployment))
            self._add(Identity(*clipped), Tally(n, weight, squared, low, high))

    def _check(self, expected: Expected | None, parts: list[str], triple: NDArray[np.float64]) -> None:
        if expected is None:
            return
        unreported = differs = False
        for kind, (wanted, served) in enumerate(zip(expected.parts(), parts, strict=True)):
            if wanted is not None and not served:
                unreported = True
            elif wanted is not None and wanted != served:
                self.checks[kind] += triple
                differs = True
        self.checks[CHECKED] += triple
        if unreported:
            self.checks[UNREPORTED] += triple
        if differs:
            self.checks[ANY] += triple

    def _add(self, identity: Identity, tally: Tally) -> None:
        """Count a version; `tally` becomes this summary's own."""
        kept = self.tallies.get(identity)
        if kept is not None:
            kept.add(tally)
        elif len(self.tallies) < self.limit:
            self.tallies[identity] = tally
            self._highest = None
        else:
            self._displace(identity, tally)

    def _displace(self, identity: Identity, tally: Tally) -> None:
        """Let the version with the highest hash go, the new one or one of those kept."""
        if self._highest is None:
            self._highest = max(map(_rank, self.tallies))
        rank = _rank(identity)
        if rank < self._highest:
            leaving = max(self.tallies, key=_rank)
            self.tallies[identity], tally = tally, self.tallies.pop(leaving)
            self._highest = None
        if self.other is None:
            self.other = tally
        else:
            self.other.add(tally)

    def rows(self) -> Iterator[tuple[Identity, Tally]]:
        """Every version kept, in order, then the rest under `OTHER`."""
        for identity in sorted(self.tallies):
            yield identity, self.tallies[identity]
        if self.other is not None:
            yield OTHER, self.other

    def merge(self, other: VersionsSummary) -> None:
        """Take in another summary."""
        if self.limit != other.limit:
            raise IncompatibleStateError(
                f"versions: summaries of at most {self.limit} and {other.limit} versions cannot be merged: "
                "expected the same max_versions"
            )
        self.checks += other.checks
        if other.other is not None:
            if self.other is None:
                self.other = other.other.copy()
            else:
                self.other.add(other.other)
        for identity, tally in other.tallies.items():
            self._add(identity, tally.copy())

    def copy(self) -> VersionsSummary:
        """An independent copy."""
        twin = VersionsSummary(self.limit, self._expected)
        twin.tallies = {identity: tally.copy() for identity, tally in self.tallies.items()}
        twin.other = None if self.other is None else self.other.copy()
        twin.checks = self.checks.copy()
        return twin

    def to_bytes(self) -> bytes:
        """The state, for the checkpoint."""
        kept = [[list(identity), tally.state()] for identity, tally in sorted(self.tallies.items())]
        other = None if self.other is None else self.other.state()
        return pack([_FORM, self.limit, kept, other, self.checks])

    @staticmethod
    def restore(data: bytes, limit: int, expected: ExpectedVersions) -> VersionsSummary:
        """A summary from `to_bytes`.

        Raises:
            IncompatibleStateError: it was made with another cap.
        """
        form, *fields = unpack(data)
        if form != _FORM:
            raise IncompatibleStateError(f"versions: stored summary has form {form}, expected {_FORM}")
        stored, kept, other, checks = fields
        if stored != limit:
            raise IncompatibleStateError(
                f"versions: stored summary keeps at most {stored} versions, the configuration {limit}: "
                "expected the same max_versions"
            )
        summary = VersionsSummary(limit, expected)
        summary.tallies = {Identity(*identity): Tally(*tally) for identity, tally in kept}
        summary.other = None if other is None else Tally(*other)
        summary.checks = checks
        return summary


def _rank(identity: Identity) -> bytes:
    return blake2b("\0".join(identity).encode("utf-8", "surrogatepass"), digest_size=16).digest()
