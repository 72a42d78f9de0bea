"""The demo's numbers: read from /metrics like any Prometheus would."""

from __future__ import annotations

import http.client
import time
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

__all__ = ["Figures", "scrape"]


class Figures(NamedTuple):
    """What one scrape says; None where there is no data yet.

    Attributes:
        at: monotonic time, seconds.
        requests: estimated requests so far.
        errors: of them errors and timeouts.
        unknown_ratio: unknown tokens per token, newest window.
        tokens_per_word: fertility, newest window.
        mismatch_ratio: share of traffic that is not as the registry says, newest window.
        tokenizers: tokenizer digests that serve at once, newest window.
        lag_seconds: how far behind the sidecar is.
        dead_letters: records refused.
    """

    at: float
    requests: float
    errors: float
    unknown_ratio: float | None
    tokens_per_word: float | None
    mismatch_ratio: float | None
    tokenizers: float | None
    lag_seconds: float
    dead_letters: float


def scrape(port: int) -> Figures | None:
    """One scrape of a sidecar on loopback; None when it does not answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]

    def total(name: str, **labels: str) -> float:
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())

    def newest(name: str, **labels: str) -> float | None:
        found = [s.value for s in samples if s.name == name and labels.items() <= s.labels.items()]
        return max(found) if found else None

    return Figures(
        at=time.monotonic(),
        requests=total("mlmon_requests_total"),
        errors=total("mlmon_requests_total", status="error")
        + total("mlmon_requests_total", status="timeout"),
        unknown_ratio=newest("mlmon_unknown_token_ratio"),
        tokens_per_word=newest("mlmon_tokens_per_word"),
        mismatch_ratio=newest("mlmon_version_mismatch_ratio"),
        tokenizers=newest("mlmon_versions_serving", kind="tokenizer_digest"),
        lag_seconds=max((s.value for s in samples if s.name == "mlmon_consumer_lag_seconds"), default=0.0),
        dead_letters=total("mlmon_dead_letters_total"),
    )
