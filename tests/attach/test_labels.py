"""Labels sent by code: what arrives, what is left out, what a label stands for."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mlmon.attach import Label, LabelConfig, LabelSender
from mlmon.errors import ConfigError
from mlmon.events.sampling import Sampler
from mlmon.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlmon.attach import Emitter
    from mlmon.events import Event

NOW_US = 1_767_225_600_000_000
CONFIG = LabelConfig(service="shop", model_name="intent", model_version="7")


def label(number: int = 0, **fields: Any) -> Label:
    base: dict[str, Any] = {
        "event_id": f"r-{number}",
        "request_time": NOW_US - 3_600_000_000,
        "label": "refund",
        "prediction": "order",
    }
    return Label(**base | fields)


class Kept:
    """Stands in for an emitter: what it was given."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> bool:
        self.events.append(event)
        return True


def sent(labels: list[Label], rate: float) -> list[Event]:
    kept = Kept()
    config = LabelConfig(service="shop", model_name="intent", sample_rate=rate)
    sender = LabelSender(kept, config, ManualClock(NOW_US))  # type: ignore[arg-type]
    assert all(sender.send(one) for one in labels)
    return kept.events


def test_labels_arrive_as_label_events(
    make_emitter: Callable[..., Emitter], read_back: Callable[[], Any]
) -> None:
    emitter = make_emitter()
    sender = LabelSender(emitter, CONFIG, ManualClock(NOW_US))
    assert sender.send(label(0, segments={"language": "de"}))
    assert sender.send(label(1, model_version="8", deployment="canary", sampling_weight=20.0))
    masked = {"label": None, "labelled_masked_tokens": 4, "right_masked_tokens": 3}
    assert sender.send(label(2, prediction=None, **masked))
    assert emitter.close(5)
    rows = read_back().by_id
    common = {
        "event_time": datetime.fromtimestamp(NOW_US / 1e6, UTC),
        "request_time": datetime.fromtimestamp(NOW_US / 1e6 - 3600, UTC),
        "service": "shop",
        "model_name": "intent",
    }
    assert all(row.items() >= common.items() for row in rows.values())
    plain = {
        name: (rows["r-0"][name], rows["r-1"][name]) for name in ("label", "prediction", "model_version")
    }
    assert plain == {
        "label": ("refund", "refund"),
        "prediction": ("order", "order"),
        "model_version": ("7", "8"),
    }
    assert rows["r-0"]["segments"] == [("language", "de")]
    assert rows["r-1"]["deployment"] == "canary"
    assert [rows[f"r-{i}"]["sampling_weight"] for i in range(3)] == [1.0, 20.0, 1.0]
    assert (rows["r-2"]["labelled_masked_tokens"], rows["r-2"]["right_masked_tokens"]) == (4, 3)
    assert rows["r-2"]["label"] is None


def test_a_label_never_comes_before_its_request() -> None:
    behind = label(request_time=NOW_US + 2_000_000)
    (event,) = sent([behind], 1.0)
    assert (event.event_time, event.request_time) == (NOW_US + 2_000_000, NOW_US + 2_000_000)


@hypothesis_settings(max_examples=50, deadline=None)
@given(rate=st.floats(0.01, 1), ids=st.lists(st.text(min_size=1), max_size=60, unique=True))
def test_at_the_taps_rate_the_labels_of_the_requests_it_kept_are_sent_with_their_weights(
    rate: float, ids: list[str]
) -> None:
    tap = Sampler(rate)
    events = sent([label(event_id=one) for one in ids], rate)
    weights = {one: tap.weigh(one, "ok") for one in ids}
    assert {event.event_id: event.sampling_weight for event in events} == {
        one: weight for one, weight in weights.items() if weight
    }


@pytest.mark.parametrize(
    ("tap_rate", "label_rate"), [(1.0, 1.0), (0.2, 1.0), (0.2, 0.05), (0.05, 0.2), (1.0, 0.1)]
)
def test_weights_estimate_all_labels_whoever_chose(tap_rate: float, label_rate: float) -> None:
    """Only sampled requests are labelled, and of those labels only some are sent, by one hash."""
    count, tap = 20_000, Sampler(tap_rate)
    labels = [label(number, sampling_weight=tap.weight) for number in range(count) if tap.keep(f"r-{number}")]
    events = sent(labels, label_rate)
    lower = min(tap_rate, label_rate)
    assert {event.sampling_weight for event in events} == {Sampler(lower).weight}
    kept = [f"r-{number}" for number in range(count) if Sampler(lower).keep(f"r-{number}")]
    assert [event.event_id for event in events] == kept
    five_sigma = 5 * (count * (1 - lower) / lower) ** 0.5
    assert abs(sum(event.sampling_weight or 0 for event in events) - count) <= five_sigma


def test_what_the_emitter_drops_is_said(make_emitter: Callable[..., Emitter]) -> None:
    emitter = make_emitter()
    emitter.close(5)
    assert LabelSender(emitter, CONFIG).send(label()) is False


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prediction": None}, "expected the prediction that 'refund' is about, got none"),
        ({"label": None}, "expected label, or labelled_masked_tokens and right_masked_tokens, got neither"),
        ({"request_time": 1_767_225_600}, "expected request_time in µs since 1970.* got 1767225600"),
        ({"labelled_masked_tokens": 3}, "right_masked_tokens <= labelled_masked_tokens, got None of 3"),
        ({"right_masked_tokens": 3}, "right_masked_tokens <= labelled_masked_tokens, got 3 of None"),
        ({"labelled_masked_tokens": 2, "right_masked_tokens": 3}, "got 3 of 2"),
        ({"labelled_masked_tokens": 2, "right_masked_tokens": -1}, "got -1 of 2"),
        ({"sampling_weight": 0.05}, "expected sampling_weight of at least 1, that of the request, got 0.05"),
        ({"sampling_weight": float("nan")}, "got nan"),
    ],
)
def test_a_label_that_cannot_be_is_refused_where_it_is_made(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"label of r-0: .*{message}"):
        label(**fields)


@pytest.mark.parametrize("fields", [{"service": ""}, {"sample_rate": 0.0}, {"deployment": "blue"}])
def test_a_sender_that_cannot_be_is_refused(fields: dict[str, Any]) -> None:
    config = LabelConfig(**{"service": "shop", "model_name": "intent"} | fields)
    with pytest.raises(ConfigError, match="cannot be sent"):
        LabelSender(Kept(), config)  # type: ignore[arg-type]


def test_a_hook_of_the_tap_cannot_make_a_label_event_of_a_request() -> None:
    from mlmon.attach.build import checked_fields

    fields, error = checked_fields({"request_time": NOW_US, "label": "refund"})
    assert fields == {"label": "refund"}
    assert "request_time" in str(error)
