"""What is said of burns: windows, coverage and the rest of the budget, by group and objective."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mlmon.burn.bounds import burns
from mlmon.catalog import slo as catalog

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from mlmon.burn.bounds import Burns
    from mlmon.burn.part import GroupKey, Part
    from mlmon.burn.plan import Plan
    from mlmon.burn.table import History
    from mlmon.catalog import Metric

__all__ = ["Figure", "figures"]

_LABELLED = 5
_JUDGED = 5


class Figure(NamedTuple):
    """One value: a metric with its labels, the sampled events behind it, and their effective number."""

    metric: Metric
    labels: tuple[str, ...]
    value: float
    n: int
    n_eff: float


class _Found(NamedTuple):
    """Sums of one objective in one group over its windows and its period, and requests for coverage."""

    key: GroupKey
    plan: Plan
    end: int
    sums: NDArray[np.float64]
    requests: float


def figures(
    groups: Mapping[GroupKey, Sequence[Part]], plans: Sequence[Plan], watermark_us: int
) -> list[Figure]:
    """Everything that can be said at a watermark.

    Args:
        groups: what is held of each (service, model), by as many partitions as brought it.
        plans: of every objective.
        watermark_us: event time that all has come up to.
    """
    found = [
        one
        for key, parts in groups.items()
        for plan in plans
        if (one := _sums(key, parts, plan, plan.end(watermark_us))) is not None
    ]
    if not found:
        return []
    sizes = [len(one.sums) for one in found]
    judged = burns(
        np.concatenate([one.sums[:, :_JUDGED] for one in found]),
        np.repeat([one.plan.objective.budget for one in found], sizes),
        np.repeat([one.plan.objective.confidence for one in found], sizes),
    )
    edges = np.cumsum([0, *sizes]).tolist()
    said: list[Figure] = []
    for one, start, stop in zip(found, edges, edges[1:], strict=False):
        said.extend(_said(one, type(judged)(*(values[start:stop].tolist() for values in judged))))
    return said


def _sums(key: GroupKey, parts: Sequence[Part], plan: Plan, end: int) -> _Found | None:
    outcomes = _total([part.outcomes[plan.place] for part in parts], end, plan.windows)
    if outcomes is None:
        return None
    requests = 0.0
    if plan.objective.labelled:
        window = plan.windows[plan.covered]
        total = _total([part.requests[plan.place] for part in parts], end, (window,))
        requests = 0.0 if total is None else float(total[0, 0])
    return _Found(key, plan, end, outcomes, requests)


def _total(
    histories: Sequence[History | None], end: int, windows: Sequence[tuple[int, int]]
) -> NDArray[np.float64] | None:
    """Sums over windows, of all parts together; None where nothing is held."""
    held = [history.sums(end, windows) for history in histories if history is not None and not history.empty]
    return None if not held else held[0] if len(held) == 1 else np.sum(held, axis=0)


def _said(one: _Found, judged: Burns) -> Iterator[Figure]:
    """Values of one objective in one group. What has no events is not said."""
    plan, labels = one.plan, (*one.key, one.plan.objective.name)
    counts = one.sums[:, 0].tolist()
    rows = zip(plan.names, counts, *judged, strict=False)
    for name, n, burn, lower, n_eff in rows:
        if n > 0:
            at = (*labels, name)
            yield Figure(catalog.BURN, at, burn, int(n), n_eff)
            yield Figure(catalog.BURN_LOWER, at, lower, int(n), n_eff)
            yield Figure(catalog.EFFECTIVE_EVENTS, at, n_eff, int(n), n_eff)
    n, burn, n_eff = int(counts[-1]), judged.burn[-1], judged.n_eff[-1]
    if n > 0:
        yield Figure(catalog.PERIOD_BURN, labels, burn, n, n_eff)
        yield Figure(catalog.BUDGET_REMAINING, labels, 1 - burn, n, n_eff)
        yield Figure(catalog.HORIZON, labels, one.end * plan.base_us / 1e6, n, n_eff)
    if one.requests > 0:
        share = float(one.sums[plan.covered, _LABELLED]) / one.requests
        n = int(counts[plan.covered])
        yield Figure(catalog.COVERAGE, labels, share, n, judged.n_eff[plan.covered] if n else 0.0)
