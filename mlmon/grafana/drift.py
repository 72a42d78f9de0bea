"""The drift board: the pager's evidence, every group of fields against its tolerance, one field closely.

Two conventions hold on all of it. Effects are shown as multiples of their tolerance and evidence as a share
of what pages, so that fields with different limits share one axis and the band begins at 1. Where one field
is looked at, its own units are shown, and the dashed line with the shaded band is its own limit.
"""

from __future__ import annotations

from mlmon.catalog import drift
from mlmon.grafana.promql import WHOLE, newest, of, ratio, series
from mlmon.grafana.spec import Board, Column, Figure, Grid, Lines, Query, Row, Step, Variable

__all__ = ["BOARD"]

_MODEL = "service, model"
_NAME = "{{service}} / {{model}}"
_FIELD = "service, model, version, monitor, field"
_FIELD_NAME = "{{field}} · {{version}}"
_ONE = 'field="$field"'
_OVER = (Step(None, "green"), Step(1.0, "red"))
_LIMIT = "limit"

_PAGER = Row(
    "Pager",
    (
        Figure(
            title="Page",
            about="Whether a page for drift is due.",
            unit="none",
            queries=(Query(newest(drift.PAGER_ALARM, by=_MODEL), _NAME),),
            words={"0": ("none", "green"), "1": ("due", "red")},
            steps=(Step(None, "green"), Step(1.0, "red")),
            sparkline=False,
            height=8,
        ),
        Figure(
            title="Pages",
            about="Pages in the time shown. False ones are bounded by `false_pages_per_month`.",
            unit="none",
            queries=(Query(f"sum by ({_MODEL}) (increase({of(drift.PAGES)}[$__range]))", _NAME),),
            decimals=0,
            sparkline=False,
            height=8,
        ),
        Lines(
            title="Evidence of the pager",
            about="Evidence over all detectors of a model that something moved by more than it may, as a "
            "share of the evidence at which a page is due. Logarithmic: each step is ten times the evidence.",
            unit="none",
            queries=(
                Query(
                    ratio(newest(drift.PAGER_EVIDENCE, by=_MODEL), newest(drift.PAGER_THRESHOLD, by=_MODEL)),
                    _NAME,
                ),
            ),
            log=True,
            steps=_OVER,
            width=10,
        ),
        Lines(
            title="Fields by state",
            about="How many fields are judged, alarmed, or wait for data: of this window, or of the "
            "baseline.",
            unit="short",
            queries=(
                Query(f"sum by (state) (max by ({_FIELD}, state) ({of(drift.FIELDS, WHOLE)}))", "{{state}}"),
            ),
            stacked=True,
            low=0.0,
            width=6,
        ),
        Grid(
            title="Causes",
            about="The likely root cause of each open page, and the field that carries most of it.",
            unit="none",
            queries=(Query(f"max by ({_MODEL}, version, segment, cause, field) ({of(drift.PAGER_CAUSE)})"),),
            columns=(
                Column("service", "Service"),
                Column("model", "Model"),
                Column("version", "Version"),
                Column("segment", "Segment"),
                Column("cause", "Cause"),
                Column("field", "Field"),
            ),
            none="no page is open",
        ),
        Grid(
            title="Baselines",
            about="What each version is compared with, and the newest event in it.",
            unit="none",
            queries=(
                Query(f"max by ({_MODEL}, version) ({of(drift.BASELINE_TIME)}) * 1000"),
                Query(f"max by ({_MODEL}, version, digest) ({of(drift.BASELINE)})"),
            ),
            columns=(
                Column("service", "Service"),
                Column("model", "Model"),
                Column("version", "Version"),
                Column("digest", "Digest"),
                Column("Value #A", "Newest event", "dateTimeFromNow"),
            ),
            none="no baseline is loaded",
        ),
    ),
)


def _group(title: str, monitor: str, what: str) -> Row:
    """Effect and evidence of the leading fields of one monitor."""
    where = (WHOLE, f'monitor="{monitor}"')
    effect = ratio(newest(drift.EFFECT, *where, by=_FIELD), newest(drift.TOLERANCE, *where, by=_FIELD))
    evidence = ratio(
        newest(drift.EVIDENCE, *where, by=_FIELD), newest(drift.FIELD_THRESHOLD, *where, by=_FIELD)
    )
    return Row(
        title,
        (
            Lines(
                title=f"{title}: effect",
                about=f"How far {what} moved beyond noise, as a multiple of what is tolerated. Within the "
                "green band no page comes of it, however long it lasts.",
                unit="none",
                queries=(Query(effect, _FIELD_NAME),),
                low=0.0,
                steps=_OVER,
                width=12,
            ),
            Lines(
                title=f"{title}: evidence",
                about="Evidence that the move is more than tolerated, as a share of what pages for this "
                "field alone. It climbs while the move lasts and falls when it is over. Logarithmic.",
                unit="none",
                queries=(Query(evidence, _FIELD_NAME),),
                log=True,
                steps=_OVER,
                width=12,
            ),
        ),
    )


_CLOSE = Row(
    "One field",
    (
        Lines(
            title="Effect and tolerance",
            about="In the field's own unit: standard deviations for means, root of the chi-square distance "
            "for distributions, the share itself for rates. The band is what is tolerated.",
            unit="none",
            queries=(
                Query(newest(drift.EFFECT, WHOLE, _ONE, by=_FIELD), "{{model}} {{version}}"),
                Query(f"max({of(drift.TOLERANCE, WHOLE, _ONE)})", _LIMIT),
            ),
            low=0.0,
            limit=_LIMIT,
            width=12,
        ),
        Lines(
            title="Evidence and threshold",
            about="Evidence accumulated; 1 is none. The band ends where this field alone would page. "
            "Logarithmic.",
            unit="none",
            queries=(
                Query(newest(drift.EVIDENCE, WHOLE, _ONE, by=_FIELD), "{{model}} {{version}}"),
                Query(f"max({of(drift.FIELD_THRESHOLD, WHOLE, _ONE)})", _LIMIT),
            ),
            log=True,
            limit=_LIMIT,
            width=12,
        ),
        Lines(
            title="Effect by segment",
            about="In which segments it moved: the ten that moved most, as multiples of what is tolerated.",
            unit="none",
            queries=(
                Query(
                    "topk(10, "
                    + ratio(
                        newest(drift.EFFECT, _ONE, by=f"{_FIELD}, segment"),
                        newest(drift.TOLERANCE, _ONE, by=f"{_FIELD}, segment"),
                    )
                    + ")",
                    "{{segment}} · {{version}}",
                ),
            ),
            low=0.0,
            steps=_OVER,
        ),
        Lines(
            title="Effective events",
            about="Effective sample size behind each reading. Few events, little evidence.",
            unit="short",
            queries=(Query(newest(drift.SAMPLE_SIZE, WHOLE, _ONE, by=_FIELD), "{{model}} {{version}}"),),
            low=0.0,
        ),
    ),
)


def _distance(measure: str) -> Query:
    return Query(newest(drift.DISTANCE, WHOLE, f'measure="{measure}"', by=_FIELD))


_DISTANCES = Row(
    "Distances, as other tools measure them",
    (
        Grid(
            title="Distances by field",
            about="How far distributions are from the baseline, for comparison with other tools; no alarm "
            "reads them: what is large depends on the number of events. PSI is bias-corrected, JS in bits, "
            "Wasserstein in standard deviations of the baseline.",
            unit="none",
            queries=(_distance("psi"), _distance("js"), _distance("ks"), _distance("wasserstein")),
            columns=(
                Column("service", "Service"),
                Column("model", "Model"),
                Column("version", "Version"),
                Column("monitor", "Monitor"),
                Column("field", "Field"),
                Column("Value #A", "PSI", "none"),
                Column("Value #B", "JS", "none"),
                Column("Value #C", "KS", "none"),
                Column("Value #D", "Wasserstein", "none"),
            ),
            sort="PSI",
            none="no baseline, or too little data yet",
            width=24,
        ),
    ),
)

_FIELD_NAMES = f"label_values({series(drift.EFFECT)}"
_FIELD_NAMES += '{service=~"$service",model=~"$model",version=~"$version"}, field)'

BOARD = Board(
    name="drift",
    title="mlmon / drift",
    about="How far the inputs, embeddings and predictions moved from the baseline, and how sure that is.",
    since="24h",
    rows=(
        _PAGER,
        _group("Embeddings", "embeddings", "the embeddings"),
        _group("Features", "features", "each feature"),
        _group("Predictions", "predictions", "classes, confidence and entropy"),
        _group("Tokens", "tokenizer", "the shares and lengths of tokens"),
        _CLOSE,
        _DISTANCES,
    ),
    variables=(
        Variable(
            "field",
            "Field",
            "The field of the last row; the fields offered are those with the most evidence.",
            _FIELD_NAMES,
            many=False,
        ),
    ),
)
