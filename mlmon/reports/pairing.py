"""Which of Evidently's columns look at what a field of ours looks at, and how the two verdicts compare."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING
from urllib.parse import unquote

import msgspec

from mlmon.reports.evidently import EMBEDDING

if TYPE_CHECKING:
    from collections.abc import Collection

    from mlmon.reports.model import ColumnVerdict, FieldRow, Ours, Peer

__all__ = ["columns_of", "paired", "unpaired"]

#: Fields that are not called like their column. Every other one is looked for under its own name.
_COLUMNS = {
    "tokenizer/length": ("tokens",),
    "tokenizer/continuation_share": ("continuation_ratio",),
    "tokenizer/unknown": ("unknown_token_ratio",),
    "tokenizer/byte_fallback": ("byte_fallback_ratio",),
    "predictions/class": ("prediction",),
    "embeddings/shift": (EMBEDDING,),
    "embeddings/norm": ("embedding.norm",),
}
#: What Evidently does not look at, by what stands after the colon of a field's name.
_ONLY_OURS = {
    "missing": "Evidently drops missing values before it compares.",
    "range": "Evidently has no such check in its drift preset.",
    "unseen": "Evidently counts a new category like any other.",
}


def columns_of(field: str, available: Collection[str]) -> list[str]:
    """The columns that look at a field ("monitor/field"), of those available.

    Example:
        >>> columns_of("features/amount", {"numeric_features.amount", "tokens"})
        ['numeric_features.amount']
        >>> columns_of("features/amount:missing", {"numeric_features.amount"})
        []
    """
    monitor, _, name = field.partition("/")
    name, _, aspect = name.partition(":")
    if aspect not in ("", "text"):
        return []
    plain = unquote(name)
    kinds = ("categorical_features",) if aspect else ("numeric_features", "categorical_features")
    if monitor == "features":
        wanted = tuple(f"{kind}.{plain}" for kind in kinds)
    else:
        wanted = _COLUMNS.get(field, (plain,))
    return [one for one in wanted if one in available][:1]


def paired(ours: Ours, peer: Peer) -> Ours:
    """Our part with the columns of each field and a sentence on how the two compare."""
    columns = {verdict.column: verdict for verdict in peer.columns}
    fields = []
    for row in ours.fields:
        names = columns_of(row.field, columns)
        reading = _reading(row, columns[names[0]] if names else None, ours)
        fields.append(msgspec.structs.replace(row, columns=names, reading=reading))
    return msgspec.structs.replace(ours, fields=fields)


def _reading(row: FieldRow, column: ColumnVerdict | None, ours: Ours) -> str:
    if column is None:
        aspect = row.field.rpartition(":")[2] if ":" in row.field else ""
        return _ONLY_OURS.get(aspect, "Evidently was given no column for this.")
    if row.state == "insufficient_data":
        return "Too few events for a verdict of ours; Evidently gives one at any size."
    if row.state == "insufficient_reference":
        return "The baseline is too small or too bursty for a verdict of ours."
    drifted = row.state == "drifted"
    if drifted == column.drifted:
        return "Both see drift." if drifted else "Neither sees drift."
    return _only_ours(row, column) if drifted else _only_evidently(row, column, ours)


def _only_ours(row: FieldRow, column: ColumnVerdict) -> str:
    rows = min(column.baseline_values, column.window_values)
    if row.kind == "vector" and column.kind == "numeric":
        return f"The mean moved, little of the shape did; Evidently compares shapes of {rows:,} rows."
    if column.threshold is None or _is_p_value(column):
        return f"Evidently saw {rows:,} rows, our sums {row.n:,} events."
    return (
        f"Evidently's threshold of {column.threshold:g} is the same for any field and any size; "
        f"beyond our tolerance the evidence of {row.n:,} events is clear."
    )


def _only_evidently(row: FieldRow, column: ColumnVerdict, ours: Ours) -> str:
    within = row.effect is not None and row.tolerance is not None and row.effect <= row.tolerance
    if within and _is_p_value(column):
        return "A shift within our tolerance. A p-value asks for any shift, and of each column on its own."
    if within:
        return (
            "A shift within our tolerance; Evidently's threshold is the same for any field and knows no "
            "sampling noise."
        )
    e = math.exp(min(row.log_e, 700.0))
    return (
        f"Beyond our tolerance, but e = {e:.3g} is short of the {ours.threshold:,.0f} that keeps "
        f"{ours.judged:,} fields to one false report in {1 / ours.false_report_rate:.0f}."
    )


def _is_p_value(column: ColumnVerdict) -> bool:
    return "p_value" in column.method


def unpaired(ours: Ours, peer: Peer) -> list[ColumnVerdict]:
    """Columns that no field of ours looks at."""
    held = {name for row in ours.fields for name in row.columns}
    return [verdict for verdict in peer.columns if verdict.column not in held]
