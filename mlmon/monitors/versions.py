"""Which versions serve, since when, how much of the traffic each, and whether they are the expected ones."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Annotated, NamedTuple, Protocol

import msgspec
import numpy as np

from mlmon.catalog import requests as catalog
from mlmon.catalog.sidecar import OVERFLOW
from mlmon.errors import IncompatibleStateError
from mlmon.monitors.base import Reading, Sample
from mlmon.stats.counts import count_cells, effective_size
from mlmon.stats.pack import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from mlmon.catalog.base import CounterTriple
    from mlmon.events.batch import EventBatch
    from mlmon.monitors.base import SeriesKey
    from mlmon.windows import Window

__all__ = [
    "KINDS",
    "OTHER",
    "Expected",
    "ExpectedVersions",
    "Identity",
    "VersionsConfig",
    "VersionsMonitor",
    "VersionsSummary",
    "nothing_expected",
]

#: Form of the stored state.
_FORM = 1
#: Parts of a version that can differ; the label `kind` also takes `unreported`.
KINDS = ("model_version", "model_digest", "tokenizer_version", "tokenizer_digest")
_UNREPORTED, _ANY, _CHECKED = len(KINDS), len(KINDS) + 1, len(KINDS) + 2
#: Rows of `VersionsSummary.checks`.
_CHECKS = len(KINDS) + 3
#: Longest version or digest kept: a SHA-512 in hex with its prefix fits.
_MAX_LENGTH = 160
_FIELDS = ("service", "model_name", "deployment", *KINDS)
_DENSE = 2**31


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


class VersionsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[monitors.versions]`: how many versions are told apart."""

    max_versions: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=256,
            description="Most versions told apart in one series, in versions; the rest is counted as `other`."
            " Each adds 5 samples to its series.",
        ),
    ] = 32


@dataclass(slots=True)
class _Tally:
    """n, Σw, Σw², first and last event time (µs) of one version."""

    n: float
    weight: float
    squared: float
    first_us: int
    last_us: int

    def add(self, other: _Tally) -> None:
        self.n += other.n
        self.weight += other.weight
        self.squared += other.squared
        self.first_us = min(self.first_us, other.first_us)
        self.last_us = max(self.last_us, other.last_us)

    def copy(self) -> _Tally:
        return _Tally(self.n, self.weight, self.squared, self.first_us, self.last_us)

    def state(self) -> list[float]:
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
        self.tallies: dict[Identity, _Tally] = {}
        self.other: _Tally | None = None
        self.checks = np.zeros((_CHECKS, 3))

    def update(self, batch: EventBatch) -> None:
        """Take in a batch."""
        if not len(batch):
            return
        cells, values = _distinct(batch)
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
            self._add(Identity(*clipped), _Tally(n, weight, squared, low, high))

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
        self.checks[_CHECKED] += triple
        if unreported:
            self.checks[_UNREPORTED] += triple
        if differs:
            self.checks[_ANY] += triple

    def _add(self, identity: Identity, tally: _Tally) -> None:
        """Count a version; `tally` becomes this summary's own."""
        kept = self.tallies.get(identity)
        if kept is not None:
            kept.add(tally)
        elif len(self.tallies) < self.limit:
            self.tallies[identity] = tally
            self._highest = None
        else:
            self._displace(identity, tally)

    def _displace(self, identity: Identity, tally: _Tally) -> None:
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

    def rows(self) -> Iterator[tuple[Identity, _Tally]]:
        """Every version kept, then the rest under `OTHER`."""
        yield from self.tallies.items()
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


class VersionsMonitor:
    """Served versions of each series against each other and against the registry.

    Reads `model_version`, `model_digest`, `tokenizer_version`, `tokenizer_digest`, `deployment` (absent means
    stable), `service`, `model_name`, `sampling_weight`, and the event times.

    Emits counters of requests by version with first and last time seen, and of differences from the registry.
    A part the event does not carry is no difference: it is counted as kind `unreported`, once for an event.
    At window close, over all series of a service and model: how many values of each part serve, the share of
    each version (the largest `max_versions`, the rest as `other`), the mismatch ratio by deployment, and what
    is expected. Cardinality: 5 samples for each of at most `max_versions` + 1 versions of a series, and 21
    for the checks.

    More than one version within a deployment means a rollout under way, or one that is stuck; two digests
    under one version mean that different weights carry the same name; a mismatch means that something serves
    that nobody declared, or a registry that was not brought up to date. It cannot see a wrong version that
    reports the right name and digest, and does not say which of two versions is better.

    Args:
        config: the cap on versions.
        expected: the registry; asked at every update, so a reload takes effect from then on.
    """

    name = "versions"

    def __init__(self, config: VersionsConfig, expected: ExpectedVersions = nothing_expected) -> None:
        self._limit = config.max_versions
        self._expected = expected

    def summary(self) -> VersionsSummary:
        """An empty summary."""
        return VersionsSummary(self._limit, self._expected)

    def load(self, data: bytes) -> VersionsSummary:
        """A summary from `to_bytes`.

        Raises:
            IncompatibleStateError: it was made with another cap.
        """
        form, *fields = unpack(data)
        if form != _FORM:
            raise IncompatibleStateError(f"versions: stored summary has form {form}, expected {_FORM}")
        limit, kept, other, checks = fields
        if limit != self._limit:
            raise IncompatibleStateError(
                f"versions: stored summary keeps at most {limit} versions, the configuration {self._limit}: "
                "expected the same max_versions"
            )
        summary = self.summary()
        summary.tallies = {Identity(*identity): _Tally(*tally) for identity, tally in kept}
        summary.other = None if other is None else _Tally(*other)
        summary.checks = checks
        return summary

    def collect(self, series: SeriesKey, summary: VersionsSummary) -> Iterable[Sample]:
        """Requests by version and differences since the process started."""
        yield from _by_version(series, summary)
        if summary.other is not None:
            yield Sample(OVERFLOW, ("version",), summary.other.n)
        checks = summary.checks.tolist()
        if checks[_CHECKED][0]:
            for kind, row in zip((*KINDS, "unreported"), checks, strict=False):
                yield from _triple(catalog.VERSION_MISMATCHES, (*series, kind), row)
            yield from _triple(catalog.VERSION_MISMATCHED, tuple(series), checks[_ANY])
            yield from _triple(catalog.VERSION_CHECKED, tuple(series), checks[_CHECKED])

    def read(
        self,
        window: Window,
        summaries: Mapping[SeriesKey, VersionsSummary],
        first_seen: Mapping[SeriesKey, int],
    ) -> Iterable[Reading]:
        """Versions of the window, over all series of each service and model."""
        groups: dict[tuple[str, str], list[tuple[SeriesKey, VersionsSummary]]] = {}
        for series, summary in summaries.items():
            groups.setdefault((series.service, series.model), []).append((series, summary))
        for (service, model), members in groups.items():
            total = _total(summary for _, summary in members)
            yield from _read_shares(window, service, model, total, self._limit)
            yield from _read_checks(window, service, model, members)
            yield from self._read_expected(window, service, model, total)
            yield from _read_since(window, members, first_seen)

    def _read_expected(
        self, window: Window, service: str, model: str, total: dict[Identity, _Tally]
    ) -> Iterator[Reading]:
        for deployment in sorted({identity.deployment for identity in total}):
            expected = self._expected.expected(service, model, deployment)
            if expected is not None:
                n, triple = _sum([tally for key, tally in total.items() if key.deployment == deployment])
                labels = (service, model, deployment, *(part or "" for part in expected.parts()))
                yield Reading(catalog.EXPECTED_VERSION, labels, 1.0, window, n, effective_size(triple))


def _total(summaries: Iterable[VersionsSummary]) -> dict[Identity, _Tally]:
    """Every version kept by any of the summaries; what they did not tell apart is `OTHER`."""
    total: dict[Identity, _Tally] = {}
    for summary in summaries:
        for identity, tally in summary.rows():
            if identity in total:
                total[identity].add(tally)
            else:
                total[identity] = tally.copy()
    return total


def _read_shares(
    window: Window, service: str, model: str, total: dict[Identity, _Tally], limit: int
) -> Iterator[Reading]:
    n, triple = _sum(list(total.values()))
    if not triple[1] > 0:
        return
    n_eff = effective_size(triple)
    told = total.keys() - {OTHER}
    for index, kind in enumerate(KINDS):
        values = {identity[index] for identity in told if identity[index]}
        if values:
            yield Reading(
                catalog.VERSIONS_SERVING, (service, model, kind), float(len(values)), window, n, n_eff
            )
    largest = sorted(told, key=lambda identity: (-total[identity].weight, identity))[:limit]
    weights = {identity: total[identity].weight for identity in largest}
    if len(largest) < len(total):
        weights[OTHER] = sum(tally.weight for identity, tally in total.items() if identity not in weights)
    for identity, weight in weights.items():
        labels = (service, model, identity.deployment, *identity[: len(KINDS)])
        yield Reading(catalog.VERSION_TRAFFIC, labels, float(weight / triple[1]), window, n, n_eff)


def _read_since(
    window: Window,
    members: list[tuple[SeriesKey, VersionsSummary]],
    first_seen: Mapping[SeriesKey, int],
) -> Iterator[Reading]:
    """Since when each model version serves: the first event of any of its segments, over restarts."""
    since: dict[tuple[str, ...], int] = {}
    counts: dict[tuple[str, ...], list[_Tally]] = {}
    for series, summary in members:
        labels = (series.service, series.model, series.deployment, series.version)
        since[labels] = min(since.get(labels, first_seen[series]), first_seen[series])
        counts.setdefault(labels, []).extend(tally for _, tally in summary.rows())
    for labels, first_us in since.items():
        n, triple = _sum(counts[labels])
        yield Reading(catalog.VERSION_SINCE, labels, first_us / 1e6, window, n, effective_size(triple))


def _read_checks(
    window: Window, service: str, model: str, members: list[tuple[SeriesKey, VersionsSummary]]
) -> Iterator[Reading]:
    checks: dict[str, NDArray[np.float64]] = {}
    for series, summary in members:
        checks[series.deployment] = checks.get(series.deployment, 0.0) + summary.checks
    for deployment, rows in checks.items():
        checked = rows[_CHECKED]
        if checked[1] > 0:
            labels = (service, model, deployment)
            value = float(rows[_ANY, 1] / checked[1])
            yield Reading(
                catalog.VERSION_MISMATCH_RATIO,
                labels,
                value,
                window,
                int(checked[0]),
                effective_size(checked),
            )


def _by_version(series: SeriesKey, summary: VersionsSummary) -> Iterator[Sample]:
    """Samples of each version. The `other` series mixes deployments, so labels are made distinct first."""
    merged: dict[tuple[str, ...], _Tally] = {}
    for identity, tally in summary.rows():
        parts = identity[: len(KINDS)]
        if parts in merged:
            merged[parts].add(tally)
        else:
            merged[parts] = tally.copy()
    for parts, tally in merged.items():
        labels = (*series, *parts)
        yield from _triple(catalog.VERSION_REQUESTS, labels, [tally.n, tally.weight, tally.squared])
        yield Sample(catalog.VERSION_FIRST_SEEN, labels, tally.first_us / 1e6)
        yield Sample(catalog.VERSION_LAST_SEEN, labels, tally.last_us / 1e6)


def _distinct(batch: EventBatch) -> tuple[NDArray[np.intp], list[list[str]]]:
    """Each event's combination of `_FIELDS` as a cell, and the combinations; cells need not be distinct."""
    columns = [batch.codes(name, "stable" if name == "deployment" else "") for name in _FIELDS]
    combined = np.zeros(len(batch), np.int64)
    bound = 1
    for codes, values in columns:
        if len(values) == 1:
            continue
        if bound * len(values) > _DENSE:
            combined = np.unique(combined, return_inverse=True)[1].astype(np.int64)
            bound = int(combined.max()) + 1
        combined = combined * len(values) + codes
        bound *= len(values)
    if bound == 1:
        return np.zeros(len(batch), np.intp), [[values[0] for _, values in columns]]
    _, first, cells = np.unique(combined, return_index=True, return_inverse=True)
    return cells, [[values[codes[row]] for codes, values in columns] for row in first.tolist()]


def _rank(identity: Identity) -> bytes:
    return blake2b("\0".join(identity).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _sum(tallies: list[_Tally]) -> tuple[int, NDArray[np.float64]]:
    triple = np.array([[tally.n, tally.weight, tally.squared] for tally in tallies] or [[0.0] * 3]).sum(0)
    return int(triple[0]), triple


def _triple(triple: CounterTriple, labels: tuple[str, ...], values: list[float]) -> Iterator[Sample]:
    yield Sample(triple.sampled, labels, values[0])
    yield Sample(triple.estimated, labels, values[1])
    yield Sample(triple.weight_squared, labels, values[2])
