"""What a drift report says, as plain values: the schema of its JSON, and what the page is rendered from.

Two parts that are made independently of each other: `Ours`, from every event of the window, and `Peer`,
Evidently's, from a sample of both sides. `pairing` says which of Evidently's columns look at what a field of
ours looks at.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

__all__ = [
    "FORM",
    "Carrier",
    "ColumnKind",
    "ColumnVerdict",
    "DriftReport",
    "FieldRow",
    "FieldVerdictState",
    "Ours",
    "Peer",
    "Side",
    "Subject",
]

#: Version of the JSON. Fields may be added under the same number; nothing is renamed or removed.
FORM = 1

ColumnKind = Literal["numeric", "categorical", "embedding"]
FieldVerdictState = Literal["drifted", "ok", "insufficient_data", "insufficient_reference"]


class Subject(msgspec.Struct, frozen=True):
    """What is compared.

    Attributes:
        service: of both sides.
        model: of both sides.
        version: of the window's events.
        baseline_version: of the baseline's; differs where the newest baseline stands in for a version.
        deployment: of the window's events.
        segment: "" is all of them.
    """

    service: str
    model: str
    version: str
    baseline_version: str
    deployment: str
    segment: str


class Side(msgspec.Struct, frozen=True):
    """One of the two sides.

    Attributes:
        source: where it came from, in words.
        digest: of the baseline; empty for the window.
        events: sampled events that our verdicts rest on.
        weight: requests they stand for, Σw.
        rows: events in the sample that Evidently is given.
        first_us: event time of the first event, µs since 1970 UTC.
        last_us: of the last.
    """

    source: str
    digest: str
    events: int
    weight: float
    rows: int
    first_us: int
    last_us: int


class Carrier(msgspec.Struct, frozen=True):
    """A cell or direction that carries part of a shift: its share of traffic (or mean) now and before."""

    name: str
    now: float
    baseline: float
    share_of_shift: float


class FieldRow(msgspec.Struct, frozen=True):
    """Our verdict on one field.

    Attributes:
        field: "monitor/field".
        kind: cells (a distribution), vector (a mean) or rate.
        effect: shift beyond noise: root of the chi-square distance for cells, standard deviations for
            vectors, the share itself for rates. None where it cannot be said.
        tolerance: the effect that is not worth a page, in the same unit.
        baseline_rate: for rates, the share in the baseline.
        log_e: natural log of the e-value against "the shift is within the tolerance".
        p_value: of the same hypothesis.
        n: sampled events of the window that carry the field.
        n_eff: their effective number, (Σw)²/Σw².
        state: drifted where e reaches `Ours.threshold`.
        distances: of distributions: psi (bias-corrected), js (bits), ks, wasserstein (baseline standard
            deviations); those that the field has.
        carriers: what carries the shift, most first.
        columns: columns of Evidently's part that look at the same.
        reading: a sentence on how the two verdicts compare.
        problem: why the field has no reference or a poor one; empty as a rule.
    """

    field: str
    kind: str
    effect: float | None
    tolerance: float | None
    baseline_rate: float | None
    log_e: float
    p_value: float | None
    n: int
    n_eff: float
    state: FieldVerdictState
    distances: dict[str, float]
    carriers: list[Carrier]
    columns: list[str]
    reading: str = ""
    problem: str = ""


class Ours(msgspec.Struct, frozen=True):
    """Our part.

    Attributes:
        false_report_rate: alpha, the chance that a report without drift beyond the tolerances names a field.
        judged: fields that could be judged, K.
        threshold: e-value from which a field has drifted, K/alpha.
        fields: those with the most evidence first.
    """

    false_report_rate: float
    judged: int
    threshold: float
    fields: list[FieldRow]


class ColumnVerdict(msgspec.Struct, frozen=True):
    """Evidently's verdict on one column of the samples.

    Attributes:
        column: its name as Evidently shows it.
        kind: numeric, categorical, or embedding (all dimensions together).
        unit: of the column's values; empty where it has none.
        method: Evidently's name of what it computed.
        score: what came out.
        threshold: what Evidently compares it with; None where it resamples one.
        drifted: its verdict.
        baseline_values: values in the baseline's sample, missing ones left out.
        window_values: in the window's.
    """

    column: str
    kind: ColumnKind
    unit: str
    method: str
    score: float
    threshold: float | None
    drifted: bool
    baseline_values: int
    window_values: int


class Peer(msgspec.Struct, frozen=True):
    """Evidently's part.

    Attributes:
        evidently_version: of the package.
        pandas_version: of the package.
        drift_share: share of drifted columns from which Evidently calls the data set drifted.
        dataset_drifted: whether it does; embeddings are not among the columns it counts.
        columns: its verdicts.
        left_out: columns it was not given, and why.
        report: Evidently's own JSON, unchanged.
    """

    evidently_version: str
    pandas_version: str
    drift_share: float
    dataset_drifted: bool
    columns: list[ColumnVerdict]
    left_out: dict[str, str]
    report: dict[str, Any]


class DriftReport(msgspec.Struct, frozen=True):
    """A drift report.

    Attributes:
        mlmon_version: of the program that made it.
        created_us: when, µs since 1970 UTC.
        subject: what is compared.
        baseline: one side.
        window: the other.
        ours: our verdicts.
        evidently: Evidently's.
        notes: what a reader should know, one sentence each.
        form: version of this schema.
    """

    mlmon_version: str
    created_us: int
    subject: Subject
    baseline: Side
    window: Side
    ours: Ours
    evidently: Peer
    notes: list[str]
    form: int = FORM
