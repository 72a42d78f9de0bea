"""What is kept, and what it weighs."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
import timeit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmon.errors import ConfigError
from mlmon.events.sampling import ALWAYS_KEEP, Sampler, sample_hash

RATES = st.floats(0.0, 1.0)
IDS = st.text(max_size=60)


@given(IDS)
def test_hash_is_personalised_blake2b_of_the_id(request_id: str) -> None:
    data = request_id.encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(data, digest_size=8, person=b"mlmon-keep-v1").digest()
    assert sample_hash(request_id) == int.from_bytes(digest, "big")


@given(RATES, IDS)
def test_kept_exactly_below_the_rate(rate: float, request_id: str) -> None:
    assert Sampler(rate).keep(request_id) == (sample_hash(request_id) < rate * 2**64)


@given(IDS, RATES, RATES)
def test_kept_at_a_low_rate_is_kept_at_a_higher_one(request_id: str, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert not Sampler(low).keep(request_id) or Sampler(high).keep(request_id)


def test_the_same_decisions_in_another_process() -> None:
    code = (
        "from mlmon.events.sampling import Sampler;"
        "s = Sampler(0.3); print(''.join('01'[s.keep(f'r{i}')] for i in range(500)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    sampler = Sampler(0.3)
    assert out.strip() == "".join("01"[sampler.keep(f"r{i}")] for i in range(500))


@settings(max_examples=25, deadline=None)
@given(st.floats(0.01, 1.0), st.integers(0, 2**32), st.floats(0.0, 0.3))
def test_weights_estimate_all_traffic(rate: float, seed: int, error_share: float) -> None:
    """Σw of kept events is unbiased for ordinary events and exact for errors."""
    n = 4000
    errors = int(n * error_share)
    sampler = Sampler(rate)
    weights = [sampler.weigh(f"{seed}-{i}", "error" if i < errors else "ok") for i in range(n)]
    assert sum(weights[:errors]) == errors
    ordinary = n - errors
    # six standard deviations of a Horvitz-Thompson total under Poisson sampling
    bound = 6 * math.sqrt(ordinary * (1 - rate) / rate) + 1e-6 * n
    assert abs(sum(weights[errors:]) - ordinary) <= bound
    assert {w for w in weights[errors:] if w} <= {sampler.weight}


@pytest.mark.parametrize("rate", [1e-9, 0.05, 1 / 3, 0.999, 1.0])
def test_weight_is_one_over_probability(rate: float) -> None:
    sampler = Sampler(rate)
    assert sampler.probability == pytest.approx(rate, rel=1e-9)
    assert sampler.weight * sampler.probability == pytest.approx(1.0)


def test_ends_of_the_range() -> None:
    assert all(Sampler(1.0).keep(f"{i}") for i in range(1000))
    assert not any(Sampler(0.0).keep(f"{i}") for i in range(1000))
    assert Sampler(0.0).weigh("a", "timeout") == 1.0
    assert Sampler(0.0).weigh("a", "client_error") == 0.0
    assert Sampler(0.0, (*ALWAYS_KEEP, "client_error")).weigh("a", "client_error") == 1.0


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan, math.inf])
def test_impossible_rates_are_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="sample_rate"):
        Sampler(rate)


def test_unknown_status_is_refused() -> None:
    with pytest.raises(ConfigError, match="teapot"):
        Sampler(0.5, ("teapot",))


def test_a_decision_takes_about_a_microsecond() -> None:
    sampler = Sampler(0.05)
    best = min(timeit.repeat(lambda: sampler.keep("0123456789abcdef01234567"), number=2000, repeat=7)) / 2000
    assert best < 5e-6  # about 0.5 µs on an idle machine
