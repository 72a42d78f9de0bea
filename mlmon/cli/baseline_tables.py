"""Baselines and their differences as tables for people and as plain values for programs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from mlmon.cli.common import print_table, time_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlmon.baseline.diff import FieldDiff, ScopeDiff
    from mlmon.baseline.model import Baseline, FieldReference, Scope, ScopeKey, Segment
    from mlmon.calibration.compare import Judged

__all__ = ["diff_rows", "show_baseline", "show_diff", "summary"]

#: Segments listed; the rest are only counted.
_SEGMENTS = 30
_FIELDS = 200
_SCOPE_COLUMNS = (
    *("service / model / version", "events", "from", "to"),
    *("burst", "block", "segments", "fields", "judged"),
)
_FIELD_COLUMNS = (
    *("field", "kind", "width", "events", "n_eff", "mean"),
    *("noise", "wander", "tolerance", "blocks", "problem"),
)


def name_of(key: ScopeKey) -> str:
    """A scope for people."""
    return " / ".join(part or "-" for part in key)


# One baseline


def show_baseline(baseline: Baseline, path: str, *, segment: str = "", fields: bool = True) -> None:
    """Print a baseline."""
    click.echo(f"{path}\n  digest   {baseline.digest}")
    click.echo(f"  built    {time_text(baseline.created_us)} from {baseline.source}")
    print_table(
        "Scopes",
        _SCOPE_COLUMNS,
        [_scope_row(key, scope) for key, scope in baseline.scopes.items()],
    )
    for key, scope in baseline.scopes.items():
        if fields and len(scope.segments) > 1 and not segment:
            _show_segments(key, scope)
        if fields and segment in scope.segments:
            _show_fields(key, segment, scope.segments[segment])
    for warning in baseline.warnings:
        click.echo(f"warning  {warning}")


def _scope_row(key: ScopeKey, scope: Scope) -> tuple[object, ...]:
    whole = scope.segments[""]
    return (
        name_of(key),
        whole.events,
        time_text(scope.first_us),
        time_text(scope.last_us),
        f"{scope.burst:.1f}",
        scope.block,
        len(scope.segments) - 1,
        len(whole.fields),
        len(whole.fields) - len(whole.problems),
    )


def _show_segments(key: ScopeKey, scope: Scope) -> None:
    parts = sorted(
        ((name, part) for name, part in scope.segments.items() if name), key=lambda item: -item[1].events
    )
    print_table(
        f"Segments of {name_of(key)}" + (f", the largest of {len(parts)}" if len(parts) > _SEGMENTS else ""),
        ("segment", "events", "fields judged"),
        [(name, part.events, len(part.fields) - len(part.problems)) for name, part in parts[:_SEGMENTS]],
    )


def _show_fields(key: ScopeKey, name: str, segment: Segment) -> None:
    print_table(
        f"Fields of {name_of(key)}" + (f", {name}" if name else ""),
        _FIELD_COLUMNS,
        [_field_row(field, one, segment.problems) for field, one in list(segment.fields.items())[:_FIELDS]],
    )


def _field_row(name: str, one: FieldReference, problems: Mapping[str, str]) -> tuple[object, ...]:
    return (
        name,
        one.spec.kind,
        one.spec.width,
        one.sums.n,
        f"{one.sums.n_eff:,.0f}",
        _number(_mean(one)),
        f"{one.trace:.3g}" if one.blocks else "-",
        f"{one.wander:.3g}" if one.blocks else "-",
        f"{one.spec.tolerance:.3g}",
        one.blocks,
        problems.get(name, ""),
    )


def _mean(one: FieldReference) -> float | None:
    return float(one.sums.mean[0]) if one.spec.width == 1 and one.sums.n else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def summary(baseline: Baseline) -> dict[str, Any]:
    """A baseline as plain values, arrays left out."""
    return {
        "digest": baseline.digest,
        "created_us": baseline.created_us,
        "source": baseline.source,
        "warnings": list(baseline.warnings),
        "scopes": [_scope_summary(key, scope) for key, scope in baseline.scopes.items()],
    }


def _scope_summary(key: ScopeKey, scope: Scope) -> dict[str, Any]:
    return {
        **key._asdict(),
        "first_us": scope.first_us,
        "last_us": scope.last_us,
        "burst": scope.burst,
        "block": scope.block,
        "sample_rows": 0 if scope.sample is None else scope.sample.num_rows,
        "parameters": {name: made.digest for name, made in scope.parameters.items()},
        "segments": [_segment_summary(name, part) for name, part in scope.segments.items()],
    }


def _segment_summary(name: str, segment: Segment) -> dict[str, Any]:
    return {
        "segment": name,
        "events": segment.events,
        "fields": [
            {
                "name": field,
                "kind": one.spec.kind,
                "width": one.spec.width,
                "n": one.sums.n,
                "n_eff": one.sums.n_eff,
                "mean": _mean(one),
                "trace": one.trace,
                "trace2": one.trace2,
                "wander": one.wander,
                "tolerance": one.spec.tolerance,
                "blocks": one.blocks,
                "problem": segment.problems.get(field),
            }
            for field, one in segment.fields.items()
        ],
    }


# Two baselines


def show_diff(found: Sequence[ScopeDiff], judged: Mapping[ScopeKey, Sequence[Judged]], number: int) -> None:
    """Print how two baselines differ."""
    for scope in found:
        if scope.change:
            click.echo(f"{name_of(scope.key)}: {scope.change}")
            continue
        click.echo(
            f"{name_of(scope.key)}: {scope.events[0]:,} events, now {scope.events[1]:,}; bursts of "
            f"{scope.burst[0]:.1f}, now {scope.burst[1]:.1f}"
        )
        click.echo(f"  parameters  {', '.join(f'{name} {what}' for name, what in scope.parameters)}")
        for what, names in (("added", scope.segments_added), ("removed", scope.segments_removed)):
            if names:
                click.echo(f"  segments {what}  {', '.join(names[:_SEGMENTS])}")
        print_table(
            f"Fields, the {min(number, len(scope.fields))} most different of {len(scope.fields)}",
            ("field", "old", "new", "measure", "distance", "moved"),
            [_diff_row(field) for field in scope.fields[:number]],
        )
        if scope.key in judged:
            _show_judged(judged[scope.key], number)


def _diff_row(field: FieldDiff) -> tuple[object, ...]:
    moved = "; ".join(f"{cell.name} {cell.old:.1%} → {cell.new:.1%}" for cell in field.moved)
    notes = ", ".join(part for part in (field.change, moved) if part)
    return (
        field.name,
        _number(field.old),
        _number(field.new),
        field.measure or "-",
        _number(field.distance),
        notes,
    )


def _show_judged(judged: Sequence[Judged], number: int) -> None:
    print_table(
        "The new one's sample judged by the old one, the most evidence first",
        ("field", "effect", "tolerated", "evidence", "p", "state", "carried by"),
        [
            (
                one.name,
                f"{one.verdict.effect:.3g}",
                f"{one.verdict.tolerance:.3g}",
                _evidence(one.verdict.log_e),
                f"{one.verdict.p_value:.2g}",
                str(one.verdict.state.value),
                ", ".join(f"{part.name} {part.share:.0%}" for part in one.carried_by),
            )
            for one in judged[:number]
        ],
    )


def _evidence(log_e: float) -> str:
    return f"{math.exp(log_e):.3g}" if log_e < 50 else f"1e{log_e / math.log(10):.0f}"


def diff_rows(
    old: Baseline,
    new: Baseline,
    found: Sequence[ScopeDiff],
    judged: Mapping[ScopeKey, Sequence[Judged]],
) -> dict[str, Any]:
    """A difference as plain values."""
    return {
        "old": old.digest,
        "new": new.digest,
        "scopes": [
            {
                **scope.key._asdict(),
                "change": scope.change,
                "parameters": dict(scope.parameters),
                "events": scope.events,
                "burst": scope.burst,
                "segments_added": scope.segments_added,
                "segments_removed": scope.segments_removed,
                "fields": [_field_values(field) for field in scope.fields],
                "judged": [
                    {
                        "field": one.name,
                        **one.verdict._asdict(),
                        "carried_by": [part._asdict() for part in one.carried_by],
                    }
                    for one in judged.get(scope.key, ())
                ],
            }
            for scope in found
        ],
    }


def _field_values(field: FieldDiff) -> dict[str, Any]:
    return {
        "field": field.name,
        "kind": field.kind,
        "old": field.old,
        "new": field.new,
        "measure": field.measure,
        "distance": field.distance,
        "moved": [cell._asdict() for cell in field.moved],
        "change": field.change,
    }
