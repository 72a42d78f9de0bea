"""Which versions serve, since when, how much of the traffic each, and whether they are the expected ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import numpy as np

from mlmon.catalog import requests as catalog
from mlmon.catalog.sidecar import OVERFLOW
from mlmon.monitors.base import Reading, Sample
from mlmon.monitors.version_state import (
    ANY,
    CHECKED,
    KINDS,
    OTHER,
    Expected,
    ExpectedVersions,
    VersionsSummary,
    nothing_expected,
)
from mlmon.stats.counts import effective_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from mlmon.catalog.base import CounterTriple
    from mlmon.monitors.base import SeriesKey
    from mlmon.monitors.version_state import Identity, Tally
    from mlmon.windows import Window

__all__ = ["Expected", "ExpectedVersions", "VersionsConfig", "VersionsMonitor", "nothing_expected"]


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
    fields = frozenset((*KINDS, "deployment", "sampling_weight"))

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
        return VersionsSummary.restore(data, self._limit, self._expected)

    def collect(self, series: SeriesKey, summary: VersionsSummary) -> Iterable[Sample]:
        """Requests by version and differences since the process started."""
        yield from _by_version(series, summary)
        if summary.other is not None:
            yield Sample(OVERFLOW, ("version",), summary.other.n)
        checks = summary.checks.tolist()
        if checks[CHECKED][0]:
            for kind, row in zip((*KINDS, "unreported"), checks, strict=False):
                yield from _triple(catalog.VERSION_MISMATCHES, (*series, kind), row)
            yield from _triple(catalog.VERSION_MISMATCHED, tuple(series), checks[ANY])
            yield from _triple(catalog.VERSION_CHECKED, tuple(series), checks[CHECKED])

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
        self, window: Window, service: str, model: str, total: dict[Identity, Tally]
    ) -> Iterator[Reading]:
        for deployment in sorted({identity.deployment for identity in total}):
            expected = self._expected.expected(service, model, deployment)
            if expected is not None:
                n, triple = _sum([tally for key, tally in total.items() if key.deployment == deployment])
                labels = (service, model, deployment, *(part or "" for part in expected.parts()))
                yield Reading(catalog.EXPECTED_VERSION, labels, 1.0, window, n, effective_size(triple))


def _total(summaries: Iterable[VersionsSummary]) -> dict[Identity, Tally]:
    """Every version kept by any of the summaries; what they did not tell apart is `OTHER`."""
    total: dict[Identity, Tally] = {}
    for summary in summaries:
        for identity, tally in summary.rows():
            if identity in total:
                total[identity].add(tally)
            else:
                total[identity] = tally.copy()
    return total


def _read_shares(
    window: Window, service: str, model: str, total: dict[Identity, Tally], limit: int
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
    counts: dict[tuple[str, ...], list[Tally]] = {}
    for series, summary in members:
        key = (series.service, series.model, series.deployment, series.version)
        since[key] = min(since.get(key, first_seen[series]), first_seen[series])
        counts.setdefault(key, []).extend(tally for _, tally in summary.rows())
    for labels, first_us in since.items():
        n, triple = _sum(counts[labels])
        if n:
            yield Reading(catalog.VERSION_SINCE, labels, first_us / 1e6, window, n, effective_size(triple))


def _read_checks(
    window: Window, service: str, model: str, members: list[tuple[SeriesKey, VersionsSummary]]
) -> Iterator[Reading]:
    checks: dict[str, NDArray[np.float64]] = {}
    for series, summary in members:
        checks[series.deployment] = checks.get(series.deployment, 0.0) + summary.checks
    for deployment, rows in checks.items():
        checked = rows[CHECKED]
        if checked[1] > 0:
            labels = (service, model, deployment)
            value = float(rows[ANY, 1] / checked[1])
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
    merged: dict[tuple[str, ...], Tally] = {}
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


def _sum(tallies: list[Tally]) -> tuple[int, NDArray[np.float64]]:
    triple = np.array([[tally.n, tally.weight, tally.squared] for tally in tallies] or [[0.0] * 3]).sum(0)
    return int(triple[0]), triple


def _triple(triple: CounterTriple, labels: tuple[str, ...], values: list[float]) -> Iterator[Sample]:
    yield Sample(triple.sampled, labels, values[0])
    yield Sample(triple.estimated, labels, values[1])
    yield Sample(triple.weight_squared, labels, values[2])
