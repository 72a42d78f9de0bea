"""A drift report put together: baseline and window in, both parts and the page out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from mlmon import __version__
from mlmon.errors import BaselineError, ConfigError
from mlmon.events.batch import EventBatch
from mlmon.monitors import MONITORS, Surroundings
from mlmon.monitors.tokenizer import no_tables
from mlmon.reports.columns import Projection, flatten, select
from mlmon.reports.evidently import compare
from mlmon.reports.model import DriftReport, Side, Subject
from mlmon.reports.ours import judge
from mlmon.reports.pairing import paired
from mlmon.reports.rows import RowSample
from mlmon.reports.window import parse_segment, plain_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import pyarrow as pa
    from numpy.typing import NDArray

    from mlmon.baseline.model import FieldReference, Scope, ScopeKey
    from mlmon.baseline.store import BaselineStore
    from mlmon.monitors.drift import Extractor
    from mlmon.monitors.tokenizer import TokenCounter
    from mlmon.reports.columns import Columns
    from mlmon.reports.window import Chosen, Gathered

    FindTables: TypeAlias = Callable[[str, str], TokenCounter | None]

__all__ = ["Made", "Making", "Reference", "build_report", "find_reference", "report_extractors"]

#: Principal directions of the embedding shown as columns.
_DIRECTIONS = 8
#: Embeddings that each side needs for Evidently's classifier.
_MIN_EMBEDDINGS = 20
#: Scopes named in a message.
_LISTED = 10


def _silent(_step: str) -> None:
    """Nobody watches."""


class Reference(NamedTuple):
    """What a window is compared with.

    Attributes:
        key: scope of the sample; monitors of the input may be judged by another version's.
        scope: it.
        fields: references by "monitor/field".
        problems: why a field has none or a poor one.
        events: of the reference.
        digest: of the baseline.
        source: what the baseline was built from.
        notes: what to say of the choice.
    """

    key: ScopeKey
    scope: Scope
    fields: Mapping[str, FieldReference]
    problems: Mapping[str, str]
    events: int
    digest: str
    source: str
    notes: list[str]


class Making(NamedTuple):
    """How a report is made.

    Attributes:
        source: where the window's events came from, in words.
        created_us: now, µs.
        sample_rows: events of each side that Evidently is given, at most.
        notes: what reading the window brought up.
        step: told what is being done.
    """

    source: str
    created_us: int
    sample_rows: int = 10_000
    notes: tuple[str, ...] = ()
    step: Callable[[str], None] = _silent


class Made(NamedTuple):
    """A report, and Evidently's own page for it."""

    report: DriftReport
    evidently_page: str


def find_reference(store: BaselineStore, chosen: Chosen) -> Reference:
    """Find what speaks for the events of a window.

    Raises:
        BaselineError: nothing does, or the baseline has no sample of events.
        ConfigError: the baseline has no reference of the segment.
    """
    found = {monitor: pair for monitor in MONITORS if (pair := store.find(chosen.scope, monitor)) is not None}
    if not found:
        raise BaselineError(
            f"the baseline covers {_listed(store.scopes)}, not {_named(chosen.scope)}: choose one of them "
            "with --service, --model and --version"
        )
    fields: dict[str, FieldReference] = {}
    problems: dict[str, str] = {}
    for monitor, (_, scope) in found.items():
        segment = scope.segments.get(chosen.segment)
        if segment is not None:
            fields |= {name: one for name, one in segment.fields.items() if name.startswith(f"{monitor}/")}
            problems |= segment.problems
    key, scope = store.find(chosen.scope, "embeddings") or next(iter(found.values()))
    if chosen.segment not in scope.segments:
        known = ", ".join(sorted(name or "(all)" for name in scope.segments)) or "none"
        raise ConfigError(f"the baseline has no segment {chosen.segment!r}: it has {known}")
    if scope.sample is None or not scope.sample.num_rows:
        raise BaselineError(
            f"the baseline has no sample of events of {_named(key)}, which Evidently needs: build it again"
        )
    notes = []
    if key != chosen.scope:
        notes.append(
            f"No baseline was built for version {chosen.scope.version or '(none)'}: its input is compared "
            f"with that of version {key.version or '(none)'}; what the model puts out has no reference of "
            "ours."
        )
    baseline = next(one for one in store.baselines if one.digest == store.digest_of(key))
    segment = scope.segments[chosen.segment]
    return Reference(key, scope, fields, problems, segment.events, baseline.digest, baseline.source, notes)


def report_extractors(
    store: BaselineStore, scope: ScopeKey, tables: FindTables = no_tables
) -> dict[str, Extractor]:
    """How events of a scope become fields, by monitor.

    Args:
        store: the baselines.
        scope: of the events.
        tables: token tables by (model, version), where events carry token ids without counts.
    """
    surroundings = Surroundings(tables, parameters=store.parameters)
    found: dict[str, Extractor] = {}
    for name, entry in MONITORS.items():
        parameters = store.parameters(name, scope)
        if parameters is not None:
            found[name] = entry.build(entry.config(), surroundings).extractor(parameters)
    return found


def build_report(reference: Reference, chosen: Chosen, window: Gathered, making: Making) -> Made:
    """Make a report.

    Args:
        reference: what `find_reference` found.
        chosen: which events the window was gathered of.
        window: them.
        making: how it is made.

    Raises:
        MissingExtraError: Evidently is missing, or does not go with the pandas there is.
        ConfigError: the two sides have nothing in common that could be compared.
    """
    making.step("judging fields")
    ours = judge(reference.fields, window.sums)
    projection = _projection(reference.scope)
    sample = _baseline_sample(reference, chosen, making.sample_rows)
    baseline, current = flatten(sample, projection), flatten(window.sample, projection)
    selected, embeddings = select(baseline, current), _embeddings(baseline, current)
    if not selected.baseline and embeddings is None:
        raise ConfigError(
            "baseline and window have no column in common that Evidently could compare: the baseline has "
            f"{', '.join(baseline.columns) or 'none'}; the window has {', '.join(current.columns) or 'none'}"
        )
    page = compare(selected, embeddings, making.step)
    report = DriftReport(
        mlmon_version=__version__,
        created_us=making.created_us,
        subject=Subject(*chosen.scope, reference.key.version, chosen.deployment, chosen.segment),
        baseline=_baseline_side(reference, sample.num_rows),
        window=Side(making.source, "", *window[2:4], window.sample.num_rows, *window[4:6]),
        ours=paired(ours, page.peer),
        evidently=page.peer,
        notes=[*reference.notes, *making.notes, *_notes(reference, window)],
    )
    return Made(report, page.html)


def _baseline_sample(reference: Reference, chosen: Chosen, rows: int) -> pa.Table:
    """Events of the baseline's sample that are of the segment, uniform over traffic."""
    sample = RowSample(rows)
    table = reference.scope.sample
    for records in [] if table is None else table.combine_chunks().to_batches():
        batch = plain_rows(EventBatch(records))
        mask = np.ones(len(batch), np.bool_)
        for name, value in parse_segment(chosen.segment).items():
            codes, values = batch.segment(name)
            mask &= np.array([one == value for one in values], np.bool_)[codes]
        batch = batch.take(np.flatnonzero(mask))
        sample.add(batch, batch.weights())
    if not sample.events:
        raise BaselineError(
            f"the baseline's sample of {_named(reference.key)} has no event"
            + (f" of segment {chosen.segment!r}" if chosen.segment else "")
            + ": report on all segments, or build it again with a larger sample"
        )
    return sample.table()


def _baseline_side(reference: Reference, rows: int) -> Side:
    weight = max((one.sums.weight for one in reference.fields.values()), default=0.0)
    scope = reference.scope
    return Side(
        reference.source, reference.digest, reference.events, weight, rows, scope.first_us, scope.last_us
    )


def _projection(scope: Scope) -> Projection | None:
    """The first principal directions of the baseline's embeddings, those that `embeddings/shift` uses."""
    parameters = scope.parameters.get("embeddings")
    spec = None if parameters is None else parameters.fields.get("shift")
    if parameters is None or spec is None or spec.whiten is None or "mean" not in parameters.values:
        return None
    return Projection(np.asarray(parameters.values["mean"], np.float32), spec.whiten[:, :_DIRECTIONS])


def _embeddings(baseline: Columns, window: Columns) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    before, now = baseline.embeddings, window.embeddings
    if before is None or now is None or before.shape[1] != now.shape[1]:
        return None
    return (before, now) if min(len(before), len(now)) >= _MIN_EMBEDDINGS else None


def _notes(reference: Reference, window: Gathered) -> list[str]:
    notes = []
    scope = reference.scope
    if window.first_us <= scope.last_us and window.last_us >= scope.first_us:
        notes.append(
            "The window lies within the time that the baseline was built from: events may be on both sides, "
            "and shifts then look smaller than they are."
        )
    if window.sample.num_rows < window.events:
        notes.append(
            f"Evidently is given a sample of {window.sample.num_rows:,} events of the window's "
            f"{window.events:,}, uniform over traffic, since it knows no sampling weights; our verdicts rest "
            "on all of them."
        )
    return notes


def _named(scope: ScopeKey) -> str:
    return " / ".join(part or "-" for part in scope)


def _listed(scopes: Iterable[ScopeKey]) -> str:
    names = [_named(scope) for scope in sorted(scopes)]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
