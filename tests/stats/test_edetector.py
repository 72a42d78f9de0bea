"""e-detectors: against a plain loop, time to a false alarm, delay, and what is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from mlmon.errors import IncompatibleStateError
from mlmon.stats.edetector import EDetectors
from mlmon.stats.pack import pack, unpack

if TYPE_CHECKING:
    from mlmon.stats.edetector import EForm

FORMS: list[EForm] = ["cusum", "sr"]


def _honest(rng: np.random.Generator, size: tuple[int, ...], shift: float = 0.0) -> np.ndarray:
    """ln of e-values with a mean of exactly 1 at shift 0."""
    return 1.0 * (rng.normal(size=size) + shift) - 0.5


@pytest.mark.parametrize("form", FORMS)
def test_they_follow_their_recursion(form: EForm) -> None:
    rng = np.random.default_rng(0)
    logs = _honest(rng, (30, 4), 0.3)
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    detectors, held = EDetectors(weights, form), np.zeros(4)
    for row in logs:
        total = detectors.update(row)
        held = np.exp(row) * (np.maximum(1.0, held) if form == "cusum" else 1.0 + held)
        assert total == pytest.approx(float(weights @ held))
    detectors.reset()
    assert detectors.total() == 0.0


@pytest.mark.parametrize("form", FORMS)
def test_false_alarms_come_after_the_threshold_in_windows_on_average(form: EForm) -> None:
    rng = np.random.default_rng(1)
    threshold, count = 30.0, 20
    times = []
    for _ in range(120):
        detectors = EDetectors(np.full(count, 1.0 / count), form)
        # all detectors see the same, the worst dependence there is
        time = 1
        while detectors.update(np.repeat(_honest(rng, (1,)), count)) < threshold and time < 2000:
            time += 1
        times.append(time)
    assert np.mean(times) - 2.0 * np.std(times) / np.sqrt(len(times)) > threshold


@pytest.mark.parametrize("form", FORMS)
def test_a_change_in_one_of_many_is_found(form: EForm) -> None:
    rng = np.random.default_rng(2)
    detectors = EDetectors(np.full(50, 0.02), form)
    for _ in range(20):
        detectors.update(_honest(rng, (50,)) - 1.0)
    delay = 0
    while detectors.total() < 720.0:
        logs = _honest(rng, (50,)) - 1.0
        logs[7] = _honest(rng, (1,), 2.0)[0]
        detectors.update(logs)
        delay += 1
        assert delay < 15


def test_windows_without_evidence_page_nobody() -> None:
    quiet = {form: EDetectors(np.ones(1), form) for form in FORMS}
    for _ in range(720):
        totals = {form: detectors.update(np.zeros(1)) for form, detectors in quiet.items()}
    assert totals["cusum"] == 1.0
    # which is why the pager does not use it
    assert totals["sr"] == pytest.approx(720.0)


def test_the_cusum_never_exceeds_the_other_form_and_both_are_bounded() -> None:
    rng = np.random.default_rng(3)
    cusum, other = (EDetectors(np.ones(1), form) for form in FORMS)
    for _ in range(100):
        logs = _honest(rng, (1,), 0.5)
        assert cusum.update(logs) <= other.update(logs) * (1 + 1e-12)
    for _ in range(10):
        assert np.isfinite(cusum.update(np.array([1e6])))
        assert np.isfinite(cusum.update(np.array([-1e6])))


@pytest.mark.parametrize("weights", [[0.6, 0.6], [1.2, -0.2]])
def test_weights_beyond_the_budget_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="expected none below 0 and a sum of at most 1"):
        EDetectors(np.array(weights))


def test_they_are_stored_and_merged() -> None:
    first, second = EDetectors(np.array([1.0])), EDetectors(np.array([0.5, 0.5]))
    first.update(np.log([8.0]))
    second.update(np.log([2.0, 4.0]))
    first.merge(second)
    assert first.total() == pytest.approx(0.5 * 8.0 + 0.5 * 3.0)
    again = EDetectors.restored(unpack(pack(first.state())))
    assert again.update(np.zeros(3)) == first.update(np.zeros(3))
    with pytest.raises(IncompatibleStateError, match="form sr"):
        first.merge(EDetectors(np.array([1.0]), "sr"))
    with pytest.raises(IncompatibleStateError, match="2 weights and 1 values"):
        EDetectors.restored(["cusum", np.array([0.5, 0.5]), np.zeros(1)])
