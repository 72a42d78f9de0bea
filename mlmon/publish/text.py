"""Families of samples as Prometheus text, classic 0.0.4 or OpenMetrics 1.0.

Why not the library's `generate_latest`: it makes an object and a sorted dictionary for every line, several
seconds for a thousand series. A test holds the two to the same parsed content.

OpenMetrics wants whole numbers in histogram buckets, and estimated counts need not be whole. Both formats
show them rounded to the nearest; cumulative counts are rounded one by one, so errors do not add up.
"""

from __future__ import annotations

from functools import lru_cache
from math import isfinite
from typing import TYPE_CHECKING

from prometheus_client.utils import floatToGoString

from mlmon.monitors.base import Histogram

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mlmon.catalog.base import Metric
    from mlmon.monitors.base import Exemplar

__all__ = ["Families", "bucket_bounds", "render"]

#: Samples of each metric: (label values, value).
Families = dict["Metric", list[tuple[tuple[str, ...], "float | Histogram"]]]

_SUFFIX = {"counter": "_total", "gauge": "", "info": "_info"}
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_HELP_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n"})


def render(families: Families, *, openmetrics: bool) -> bytes:
    """Write the families as text, UTF-8; exemplars and units only in OpenMetrics."""
    out: list[str] = []
    quoted: dict[str, str] = {}
    for metric, samples in families.items():
        out.append(_header(metric, openmetrics=openmetrics))
        for labels, value in samples:
            names = _label_text(metric.labels, labels, quoted)
            if isinstance(value, Histogram):
                _histogram(out, metric.name, names, value, openmetrics=openmetrics)
            else:
                braces = f"{{{names}}}" if names else ""
                out.append(f"{metric.name}{_SUFFIX[metric.kind]}{braces} {_number(value)}\n")
    if openmetrics:
        out.append("# EOF\n")
    return "".join(out).encode("utf-8", "replace")


def _header(metric: Metric, *, openmetrics: bool) -> str:
    if openmetrics:
        name, kind, text = metric.name, metric.kind, metric.help.translate(_ESCAPES)
        unit = f"# UNIT {name} {metric.unit}\n" if has_unit(metric) else ""
    else:
        name = metric.name + (_SUFFIX[metric.kind] if metric.kind in ("counter", "info") else "")
        kind, text, unit = metric.kind, metric.help.translate(_HELP_ESCAPES), ""
        kind = "gauge" if kind == "info" else kind
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n{unit}"


def has_unit(metric: Metric) -> bool:
    """Whether OpenMetrics may name the unit: only where the family's name ends in it."""
    return bool(metric.unit) and metric.name.endswith("_" + metric.unit)


def _label_text(names: tuple[str, ...], values: tuple[str, ...], quoted: dict[str, str]) -> str:
    parts = []
    for name, value in zip(names, values, strict=True):
        text = quoted.get(value)
        if text is None:
            text = quoted[value] = f'="{value.translate(_ESCAPES)}"'
        parts.append(name + text)
    return ",".join(parts)


def _histogram(out: list[str], name: str, labels: str, value: Histogram, *, openmetrics: bool) -> None:
    stem = f"{name}_bucket{{{labels},le=" if labels else f"{name}_bucket{{le="
    braces = f"{{{labels}}}" if labels else ""
    counts = [round(count) for count in value.counts]
    bounds = bucket_bounds(tuple(value.bounds))
    if openmetrics and value.exemplars:
        out.extend(
            f'{stem}"{bound}"}} {count}{_exemplar(exemplar)}\n'
            for bound, count, exemplar in zip(bounds, counts, value.exemplars, strict=True)
        )
    else:
        out.extend(f'{stem}"{bound}"}} {count}\n' for bound, count in zip(bounds, counts, strict=True))
    out.append(f"{name}_count{braces} {counts[-1]}\n{name}_sum{braces} {_number(value.total)}\n")


def _exemplar(exemplar: Exemplar | None) -> str:
    if exemplar is None:
        return ""
    trace = exemplar.trace_id.translate(_ESCAPES)
    return f' # {{trace_id="{trace}"}} {_number(exemplar.value)} {exemplar.time_us / 1e6!r}'


def _number(value: float) -> str:
    number = float(value)
    return repr(number) if isfinite(number) else _library_number(number)


def _library_number(value: float) -> str:
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]


@lru_cache(maxsize=256)
def bucket_bounds(bounds: tuple[float, ...]) -> tuple[str, ...]:
    """Values of the label `le`, +Inf last.

    Example:
        >>> bucket_bounds((0.5, 1.0))
        ('0.5', '1.0', '+Inf')
    """
    return (*map(_library_number, bounds), "+Inf")


def in_order(families: Families, order: Mapping[str, Metric]) -> Families:
    """The families in the order of the catalog, those it does not know last."""
    place = {name: index for index, name in enumerate(order)}
    known: Iterable[Metric] = sorted(families, key=lambda metric: place.get(metric.name, len(place)))
    return {metric: families[metric] for metric in known}
