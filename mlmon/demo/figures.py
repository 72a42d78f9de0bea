"""The demo's numbers: read from /metrics like any Prometheus would."""

from __future__ import annotations

import http.client
import time
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

__all__ = ["Drift", "Figures", "Page", "read_samples", "scrape"]


class Page(NamedTuple):
    """The page that is open: the likely cause, and the field that carries most of it."""

    cause: str
    field: str


class Drift(NamedTuple):
    """One field over all segments, newest window.

    Attributes:
        effect: how far it has moved, in standard deviations; of a rate, the share itself.
        tolerance: what is not worth a page.
        carries: whether it carries the page that is open.
    """

    effect: float
    tolerance: float
    carries: bool


class Figures(NamedTuple):
    """What one scrape says; None where there is no data yet.

    Attributes:
        at: monotonic time, seconds.
        requests: estimated requests so far.
        errors: of them errors and timeouts.
        unknown_ratio: unknown tokens per token, newest window.
        mismatch_ratio: share of traffic that is not as the registry says, newest window.
        lag_seconds: how far behind the sidecar is.
        dead_letters: records refused.
        evidence: that something has moved, over all detectors; None before the first window was judged.
        threshold: evidence at which a page is due.
        detectors: how many share the budget.
        pages: so far.
        page: the one that is open.
        drift: by "monitor/field".
    """

    at: float
    requests: float
    errors: float
    unknown_ratio: float | None
    mismatch_ratio: float | None
    lag_seconds: float
    dead_letters: float
    evidence: float | None
    threshold: float | None
    detectors: float | None
    pages: int
    page: Page | None
    drift: dict[str, Drift]


def read_samples(port: int) -> list[Sample] | None:
    """Every sample that a process on loopback shows; None when it does not answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        text = response.read().decode()
        if response.status != 200:
            return None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return [s for family in text_string_to_metric_families(text) for s in family.samples]


def scrape(port: int) -> Figures | None:
    """One scrape of a sidecar on loopback; None when it does not answer."""
    samples = read_samples(port)
    if samples is None:
        return None

    def total(name: str, **labels: str) -> float:
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())

    def newest(name: str) -> float | None:
        return max((s.value for s in samples if s.name == name), default=None)

    return Figures(
        at=time.monotonic(),
        requests=total("mlmon_requests_total"),
        errors=total("mlmon_requests_total", status="error")
        + total("mlmon_requests_total", status="timeout"),
        unknown_ratio=newest("mlmon_unknown_token_ratio"),
        mismatch_ratio=newest("mlmon_version_mismatch_ratio"),
        lag_seconds=newest("mlmon_consumer_lag_seconds") or 0.0,
        dead_letters=total("mlmon_dead_letters_total"),
        evidence=newest("mlmon_pager_evidence"),
        threshold=newest("mlmon_pager_threshold"),
        detectors=newest("mlmon_pager_detectors"),
        pages=int(total("mlmon_pager_pages_total")),
        page=_page(samples),
        drift=_drift(samples),
    )


def _page(samples: list[Sample]) -> Page | None:
    if not any(s.value for s in samples if s.name == "mlmon_pager_alarm"):
        return None
    causes = (s for s in samples if s.name == "mlmon_pager_cause" and s.value)
    return next((Page(s.labels["cause"], s.labels["field"]) for s in causes), None)


def _drift(samples: list[Sample]) -> dict[str, Drift]:
    def of(name: str) -> dict[str, float]:
        return {
            f"{s.labels['monitor']}/{s.labels['field']}": s.value
            for s in samples
            if s.name == name and not s.labels["segment"]
        }

    tolerances, alarms = of("mlmon_drift_tolerance"), of("mlmon_drift_alarm")
    return {
        name: Drift(effect, tolerances[name], bool(alarms[name]))
        for name, effect in of("mlmon_drift_effect").items()
        if name in tolerances and name in alarms
    }
