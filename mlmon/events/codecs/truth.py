"""Which events say of the truth what cannot be: a label before its request, more right than labelled tokens.

Unlike the bounds in `checks`, these rules hold between fields. A rule is kept where all its fields are read:
a column that was left out by the decoder says nothing about the event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from mlmon.errors import DecodeReason
from mlmon.events.codecs.checks import EARLIEST_US, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from mlmon.events.batch import EventBatch

__all__ = ["find_truth_faults"]

#: Integers that say no or yes.
_FLAGS = ("agreement", "echo")
_LABELLED, _RIGHT = "labelled_masked_tokens", "right_masked_tokens"


def find_truth_faults(batch: EventBatch, wanted: frozenset[str]) -> list[Fault]:
    """Faults of label events and of masked counts.

    Args:
        batch: the events; columns have the contract's types.
        wanted: the fields that were decoded, where they were sent.

    Returns:
        Faults; a row may be in several. Empty for a good batch, at no cost where nothing is labelled.
    """
    rows = batch.label_rows()
    found = [*_masked_counts(batch, wanted), *_yes_or_no(batch)]
    if rows is not None:
        found += [*_request_times(batch, rows), *_labels(batch, rows, wanted)]
    return [fault for fault in found if len(fault.rows)]


def _request_times(batch: EventBatch, labels: NDArray[np.bool_]) -> Iterator[Fault]:
    times = batch.request_times()
    early = f"expected µs since 1970, not before 2000-01-01 ({EARLIEST_US})"
    too_early = np.flatnonzero(labels & (times < EARLIEST_US))
    yield Fault(too_early, DecodeReason.BAD_VALUE, "request_time", early)
    late = "expected a time at or before event_time, since a label comes after its request"
    too_late = np.flatnonzero(labels & (times > batch.times()))
    yield Fault(too_late, DecodeReason.BAD_VALUE, "request_time", late)


def _labels(batch: EventBatch, labels: NDArray[np.bool_], wanted: frozenset[str]) -> Iterator[Fault]:
    missing = DecodeReason.MISSING_FIELD
    if not wanted >= {"label", "prediction", _LABELLED}:
        return
    labelled = _present(batch, "label")
    expected = (
        "a label event says label, or labelled_masked_tokens, or reference; without request_time it is a "
        "request"
    )
    said = labelled | _present(batch, _LABELLED) | _present(batch, "reference")
    yield Fault(np.flatnonzero(labels & ~said), missing, "label", expected)
    expected = "a label event restates the prediction that its label is about"
    unanswered = labels & labelled & ~_present(batch, "prediction")
    yield Fault(np.flatnonzero(unanswered), missing, "prediction", expected)


def _masked_counts(batch: EventBatch, wanted: frozenset[str]) -> Iterator[Fault]:
    if not wanted >= {_LABELLED, _RIGHT} or not (batch.has(_LABELLED) or batch.has(_RIGHT)):
        return
    has_all, has_right = _present(batch, _LABELLED), _present(batch, _RIGHT)
    for name, lacking in ((_LABELLED, has_right & ~has_all), (_RIGHT, has_all & ~has_right)):
        expected = f"{_LABELLED} and {_RIGHT} come together"
        yield Fault(np.flatnonzero(lacking), DecodeReason.MISSING_FIELD, name, expected)
    every, right = batch.floats(_LABELLED), batch.floats(_RIGHT)
    if every is not None and right is not None:
        expected = f"expected at most {_LABELLED}"
        yield Fault(np.flatnonzero(right > every), DecodeReason.BAD_VALUE, _RIGHT, expected)


def _yes_or_no(batch: EventBatch) -> Iterator[Fault]:
    for name in _FLAGS:
        values = batch.floats(name) if batch.has(name) else None
        if values is not None:
            yield Fault(np.flatnonzero(values > 1), DecodeReason.BAD_VALUE, name, "expected 0 or 1")


def _present(batch: EventBatch, name: str) -> NDArray[np.bool_]:
    """Events that have a value of the field, shape (n,)."""
    column = batch.column(name)
    if column is None:
        return np.zeros(len(batch), np.bool_)
    present: NDArray[np.bool_] = pc.is_valid(column).to_numpy(zero_copy_only=False)
    return present
