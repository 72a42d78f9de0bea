"""Queries of panels, written from the catalogue: a metric that is not there cannot be asked for.

Every selector is narrowed to the board's variables by whichever of the labels service, model and version its
metric has. Shadow traffic is answered by nobody's wish, so what users meet leaves it out (`LIVE`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlmon.catalog import Metric

__all__ = ["LIVE", "SCOPE", "WHOLE", "newest", "of", "per_second", "quantile", "ratio", "scope_of", "series"]

#: Labels that the board's variables of the same names narrow.
SCOPE = ("service", "model", "version")
#: Requests that somebody waits for.
LIVE = 'deployment!="shadow"'
#: The joined series of drift readings, over all segments of a version.
WHOLE = 'segment=""'
_SUFFIX = {"counter": "_total", "info": "_info"}
_EVERY = "$__rate_interval"


def series(metric: Metric, part: str = "") -> str:
    """The name under which Prometheus has a metric.

    Args:
        metric: from the catalogue.
        part: of a histogram: `bucket`, `sum` or `count`.

    Example:
        >>> from mlmon.catalog import requests, sidecar
        >>> series(requests.REQUESTS.estimated), series(requests.LATENCY.estimated, "bucket")
        ('mlmon_requests_total', 'mlmon_request_latency_seconds_bucket')
        >>> series(sidecar.BUILD)
        'mlmon_build_info'
    """
    return f"{metric.name}_{part}" if part else metric.name + _SUFFIX.get(metric.kind, "")


def of(metric: Metric, *where: str, part: str = "") -> str:
    """A selector of a metric in the board's scope.

    Example:
        >>> from mlmon.catalog import drift
        >>> of(drift.PAGER_EVIDENCE)
        'mlmon_pager_evidence{service=~"$service",model=~"$model"}'
    """
    scope = [f'{label}=~"${label}"' for label in scope_of(metric)]
    matchers = ",".join([*scope, *where])
    return series(metric, part) + (f"{{{matchers}}}" if matchers else "")


def scope_of(metric: Metric) -> tuple[str, ...]:
    """The labels by which the board's variables narrow a metric.

    None where it is about no service: the `version` of `mlmon_build` is mlmon's own.
    """
    return tuple(label for label in SCOPE if label in metric.labels) if SCOPE[0] in metric.labels else ()


def per_second(metric: Metric, *where: str, by: str = "", part: str = "") -> str:
    """Σ of a counter's rate.

    Example:
        >>> from mlmon.catalog import sidecar
        >>> per_second(sidecar.DECODE_ERRORS, by="reason")
        'sum by (reason) (rate(mlmon_decode_errors_total[$__rate_interval]))'
    """
    return f"{_sum(by)} (rate({of(metric, *where, part=part)}[{_EVERY}]))"


def ratio(above: str, below: str) -> str:
    """A share: absent where there is nothing to divide by, never NaN.

    Example:
        >>> ratio("a", "b")
        'a / (b > 0)'
    """
    return f"{above} / ({below} > 0)"


def quantile(q: float, metric: Metric, *where: str, by: str = "") -> str:
    """A quantile of a histogram over the rate interval."""
    buckets = per_second(metric, *where, by=f"le, {by}" if by else "le", part="bucket")
    return f"histogram_quantile({q:g}, {buckets})"


def newest(metric: Metric, *where: str, by: str) -> str:
    """A gauge by these labels, whichever sidecar shows it: after a failover two do, for a moment."""
    return f"max by ({by}) ({of(metric, *where)})"


def _sum(by: str) -> str:
    return f"sum by ({by})" if by else "sum"
