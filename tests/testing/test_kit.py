"""The public test kit keeps its own promises."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import Phase, find, given, settings

from mlmon.events import DecodeConfig, Decoder, LogRecord, encode_json
from mlmon.testing import ManualClock
from mlmon.testing.strategies import NOW_US, events, mutations

if TYPE_CHECKING:
    from mlmon.events import Event


def test_the_clock_moves_only_when_told() -> None:
    clock = ManualClock(now_us=1_000)
    assert (clock.now_us(), clock.monotonic()) == (1_000, 0.0)
    clock.sleep(0.5)
    clock.advance(1)
    assert (clock.now_us(), clock.monotonic()) == (1_501_000, 1.5)
    clock.set_now_us(5)
    assert (clock.now_us(), clock.monotonic()) == (5, 1.5)
    with pytest.raises(ValueError, match="seconds >= 0"):
        clock.advance(-1)


@settings(max_examples=50, deadline=None)
@given(events())
def test_events_are_what_the_decoder_accepts(event: Event) -> None:
    decoded = Decoder(DecodeConfig()).decode([LogRecord(0, -1, None, encode_json(event), ())], NOW_US)
    assert (decoded.events, decoded.rejects) == (1, [])


def test_events_are_requests_and_label_events_with_the_truth_now_or_later() -> None:
    first = settings(max_examples=2000, phases=[Phase.generate])  # the simplest is not asked for
    for wanted in (
        lambda event: event.request_time is None and event.label is None,
        lambda event: event.request_time is None and event.label is not None,
        lambda event: event.request_time is not None and event.label is not None,
        lambda event: event.request_time is not None and event.label is None,
    ):
        assert wanted(find(events(), wanted, settings=first))


def test_mutations_cut_and_lengthen_and_turn_bits() -> None:
    value = b"0123456789"
    for wanted in (
        lambda changed: len(changed) < len(value),
        lambda changed: len(changed) > len(value),
        lambda changed: len(changed) == len(value) and changed != value,
    ):
        assert wanted(find(mutations(value), wanted))
