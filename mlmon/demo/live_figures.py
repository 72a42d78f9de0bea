"""The live demo's numbers: what a sidecar says of a server, and of its answers beside another's."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from mlmon.demo.figures import read_samples
from mlmon.monitors.slo_objectives import read_objectives

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

__all__ = [
    "ALERT",
    "PAGE_BURN",
    "PAGE_EVENTS",
    "Alert",
    "LiveFigures",
    "live_scrape",
    "read_figures",
    "target_of",
]

#: When the objective `reference-agreement` pages, by alerts/rules/slo-reference-agreement.yml, which a
#: Prometheus evaluates on the same gauges: burn, effective replays, and for how long in nominal seconds.
ALERT = "MlmonErrorBudgetBurnCritical"
PAGE_BURN, PAGE_EVENTS, PAGE_FOR, PAGE_KEEP = 3.0, 50.0, 60.0, 900.0
_AGREEMENT, _MASKED, _LATENCY = "reference-agreement", "masked-token-accuracy", "latency-p95"
_LONG, _SHORT = "1h", "5m"
_BUDGETS = {objective.name: objective.budget for objective in read_objectives().objectives}


class LiveFigures(NamedTuple):
    """What one scrape says; None where there is no data yet. Replays count nowhere but in `replayed`.

    Attributes:
        at: monotonic time, seconds.
        requests: estimated requests so far.
        errors: of them errors and timeouts.
        mismatch_ratio: share of traffic that is not as the registry says, newest window.
        fast_ratio: share of answers within the latency objective's limit, over its longer window.
        lag_seconds: how far behind the sidecar is.
        dead_letters: records refused.
        replayed: requests that were sent to the reference too, so far.
        agreement: share of them with the reference's first answer, newest window.
        overlap: rank-biased overlap, newest window.
        divergence: from the reference, nats, newest window.
        masked_ratio: masked tokens that came back right, over the objective's shortest window.
        burn: of the objective of agreement over its short window.
        burn_lower: lower bound of the burn over its long window.
        judged: effective replays in the long window.
        page: whether the alert fires, as of this scrape.
    """

    at: float
    requests: float
    errors: float
    mismatch_ratio: float | None
    fast_ratio: float | None
    lag_seconds: float
    dead_letters: float
    replayed: float
    agreement: float | None
    overlap: float | None
    divergence: float | None
    masked_ratio: float | None
    burn: float | None
    burn_lower: float | None
    judged: float
    page: bool = False

    @property
    def burning(self) -> bool:
        """Whether the expression of the alert holds: by both windows, and by enough replays."""
        burns = (self.burn_lower or 0.0, self.burn or 0.0)
        return min(burns) > PAGE_BURN and self.judged >= PAGE_EVENTS


class Alert:
    """The alert as Prometheus keeps it: it fires when its expression held for a while, and a while longer.

    Args:
        time_scale: that of the objectives; both times are divided by it.

    Attributes:
        fired: times that it began to fire.

    Example:
        >>> alert = Alert(time_scale=60)
        >>> [alert.evaluate(at, burning=at < 3) for at in (0.0, 0.5, 1.0, 3.0, 15.5, 16.0)]
        [False, False, True, True, True, False]
    """

    def __init__(self, time_scale: float) -> None:
        self._for, self._keep = PAGE_FOR / time_scale, PAGE_KEEP / time_scale
        self._since: float | None = None
        self._until = 0.0
        self._firing = False
        self.fired = 0

    def evaluate(self, at: float, *, burning: bool) -> bool:
        """Whether it fires at a moment, monotonic seconds, at which the expression holds or not."""
        if burning:
            self._since = at if self._since is None else self._since
            if not self._firing and at - self._since >= self._for:
                self._firing = True
                self.fired += 1
            self._until = at + self._keep
        else:
            self._since = None
            self._firing = self._firing and at < self._until
        return self._firing


def target_of(slo: str) -> float:
    """Share of good events that an objective asks for."""
    return 1 - _BUDGETS[slo]


def live_scrape(port: int) -> LiveFigures | None:
    """One scrape of a sidecar on loopback; None when it does not answer."""
    samples = read_samples(port)
    return None if samples is None else read_figures(samples, time.monotonic())


def read_figures(samples: list[Sample], at: float) -> LiveFigures:
    """Make figures of samples that were read at a moment."""
    seen = [s for s in samples if s.labels.get("deployment") != "shadow"]

    def total(name: str, **labels: str) -> float:
        return sum(s.value for s in seen if s.name == name and labels.items() <= s.labels.items())

    def newest(name: str, **labels: str) -> float | None:
        found = (s.value for s in seen if s.name == name and labels.items() <= s.labels.items())
        return max(found, default=None)

    def good(slo: str) -> float | None:
        burn = newest("mlmon_slo_burn_rate", slo=slo, window=_LONG)
        return None if burn is None else 1 - burn * _BUDGETS[slo]

    judged = {"slo": _AGREEMENT, "window": _LONG}
    return LiveFigures(
        at=at,
        requests=total("mlmon_requests_total"),
        errors=total("mlmon_requests_total", status="error")
        + total("mlmon_requests_total", status="timeout"),
        mismatch_ratio=newest("mlmon_version_mismatch_ratio"),
        fast_ratio=good(_LATENCY),
        lag_seconds=newest("mlmon_consumer_lag_seconds") or 0.0,
        dead_letters=total("mlmon_dead_letters_total"),
        replayed=total("mlmon_sampled_shadow_evaluations_total", measure="agreement"),
        agreement=newest("mlmon_shadow_agreement_ratio"),
        overlap=newest("mlmon_shadow_rank_biased_overlap_ratio"),
        divergence=newest("mlmon_shadow_kl_divergence_nats"),
        masked_ratio=good(_MASKED),
        burn=newest("mlmon_slo_burn_rate", slo=_AGREEMENT, window=_SHORT),
        burn_lower=newest("mlmon_slo_burn_rate_lower", **judged),
        judged=newest("mlmon_slo_effective_events", **judged) or 0.0,
    )
