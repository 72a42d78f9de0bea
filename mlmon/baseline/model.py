"""What a baseline is: frozen parameters, reference sums, and the null distribution of every field.

A baseline holds scopes, one for each (service, model, model version). A scope holds the parameters that each
monitor needs to turn events into fields (bins, categories, whitening), and for each segment the reference of
every field. Segments share the parameters of their scope, so their sums merge into those of the scope.

Nothing here computes; `mlmon.calibration` makes baselines, `mlmon.drift` judges by them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from mlmon.stats.sums import FieldSums

__all__ = [
    "Baseline",
    "FieldKind",
    "FieldReference",
    "FieldSpec",
    "FindParameters",
    "Parameters",
    "Scope",
    "ScopeKey",
    "Segment",
    "no_parameters",
]

FieldKind = Literal["cells", "vector", "rate"]


class ScopeKey(NamedTuple):
    """What parameters are kept for."""

    service: str
    model: str
    version: str


@dataclass(frozen=True, slots=True, eq=False)
class FieldSpec:
    """What a field is.

    Attributes:
        kind: cells: φ counts over cells (a distribution); vector: a mean; rate: 0 or 1, of which a rise
            matters.
        width: d, the length of φ.
        names: what each cell is, for people (a category, a token id, an interval); empty for vectors.
        edges: inner edges of the bins of a numeric field, increasing, shape (bins - 1,); None for others.
        whiten: matrix W with Q = |(mean - reference) W|², shape (d, r), for vectors; None for others.
        tolerance: smallest shift that matters, in the field's own unit (see `drift.fields`).
        clip: bounds that a scalar value is clipped to before it is added, so that single outliers cannot
            carry a mean; None: not clipped. Extractors apply it.
    """

    kind: FieldKind
    width: int
    names: tuple[str, ...] = ()
    edges: NDArray[np.float64] | None = None
    whiten: NDArray[np.float32] | None = None
    tolerance: float = 0.0
    clip: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class FieldReference:
    """The reference of one field in one segment.

    With a window of effective size n drawn like the reference, Q (see `drift.fields`) has mean trace/n and
    variance 2·trace2/n², bursts included.

    Attributes:
        spec: what the field is.
        sums: of the whole reference.
        trace: trace of the long-run covariance of φ in the field's metric. For cells in units of the value
            under independence, d - 1, so 1 means no bursts; for rates the variance inflation (design effect).
        trace2: trace of its square, in the same sense.
        wander: how far slices of the reference in time stray from the whole, beyond sampling noise, in the
            unit of the effect (see `drift.fields`); what varies daily is no drift.
        blocks: independent blocks that trace and trace2 come from; 0: not calibrated.
    """

    spec: FieldSpec
    sums: FieldSums
    trace: float
    trace2: float
    wander: float
    blocks: int


@dataclass(frozen=True, slots=True, eq=False)
class Parameters:
    """What one monitor needs to turn events of a scope into fields.

    Attributes:
        digest: of values and fields; sums made under another digest cannot be merged.
        values: the monitor's own: arrays, strings, numbers, lists and dicts of them.
        fields: the fields it makes, by name.
    """

    digest: str
    values: Mapping[str, Any]
    fields: Mapping[str, FieldSpec]


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """The reference of one segment by "monitor/field"; `problems` says why a field has none or a poor one."""

    fields: Mapping[str, FieldReference]
    events: int
    problems: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Scope:
    """One (service, model, version).

    Attributes:
        parameters: by monitor.
        segments: by segment as in `SeriesKey`; "" is all of them together, over every segment.
        first_us: event time of the first event, µs.
        last_us: of the last.
        burst: how many events in a row are alike: the integrated autocorrelation length, 1 when independent.
        block: events to a block of the null.
        sample: a uniform sample of events (contract columns), for reports, explorer and simulation.
    """

    parameters: Mapping[str, Parameters]
    segments: Mapping[str, Segment]
    first_us: int
    last_us: int
    burst: float
    block: int
    sample: pa.Table | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Baseline:
    """A whole baseline, as one file holds it.

    Attributes:
        scopes: by service, model and version.
        created_us: when it was built, µs.
        source: what it was built from, in words.
        warnings: what its maker should know.
        digest: BLAKE2b-256 of the content, hex; empty before it is saved.
    """

    scopes: Mapping[ScopeKey, Scope]
    created_us: int
    source: str
    warnings: tuple[str, ...] = ()
    digest: str = ""


#: (monitor, scope) to its parameters, or None where no baseline covers it.
FindParameters: TypeAlias = "Callable[[str, ScopeKey], Parameters | None]"


def no_parameters(_monitor: str, _scope: ScopeKey) -> Parameters | None:
    """No baseline is configured."""
    return None
