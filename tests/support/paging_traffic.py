"""Traffic of several services at once, each healthy until it is spoilt, and the past that they had.

Every service is the one of `report_kit` under another name, so one calibrated baseline speaks for all.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from paging_kit import SCALE, STEP
from report_kit import KEY, calibrated, events

from mlmon.attach.labels import Label
from mlmon.baseline.file import save_baseline
from mlmon.baseline.model import ScopeKey
from mlmon.events.event import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from mlmon.attach.labels import LabelSender
    from mlmon.slo.model import Specs

MODEL, VERSION, TOKENIZER = KEY.model, KEY.version, "a" * 16
#: Events that a service repeats.
_POOL = 2000
_TOKENS = 20.0
_TICK_SECONDS = 0.02
_DAY_SECONDS = 86_400 / SCALE
#: Objectives that the past is written of, with what each request counts there; None: slices of time.
_PAST: dict[str, float | None] = {
    "availability": 1.0,
    "latency-p95": 1.0,
    "unknown-tokens": _TOKENS,
    "version-correctness": None,
    "pipeline-freshness": None,
}


@dataclass(frozen=True)
class Service:
    """A service and its traffic.

    Attributes:
        name: of the service.
        per_second: requests.
        healthy: its events, over and over.
        faulty: what it sends once it is spoilt.
    """

    name: str
    per_second: float
    healthy: list[Event]
    faulty: list[Event]


class Traffic(threading.Thread):
    """Emits the events of some services, each when it happens, until it is stopped."""

    def __init__(self, services: Iterable[Service], emit: Callable[[Event], bool]) -> None:
        super().__init__(daemon=True)
        self._services = list(services)
        self._emit = emit
        self._spoilt: set[str] = set()
        self._enough = threading.Event()
        self.sent: Counter[str] = Counter()
        self.error: BaseException | None = None

    def run(self) -> None:
        """Emit."""
        started = time.monotonic()
        try:
            while not self._enough.wait(_TICK_SECONDS):
                passed = time.monotonic() - started
                for service in self._services:
                    pool = service.faulty if service.name in self._spoilt else service.healthy
                    while self.sent[service.name] < passed * service.per_second:
                        self._send(service.name, pool)
        except BaseException as error:
            self.error = error
            raise

    def _send(self, name: str, pool: list[Event]) -> None:
        number = self.sent[name]
        now = {"event_id": f"{name}-{number:x}", "event_time": time.time_ns() // 1000}
        assert self._emit(msgspec.structs.replace(pool[number % len(pool)], **now)), "an event was dropped"
        self.sent[name] += 1

    def spoil(self, *names: str) -> None:
        """From now on these services send what is wrong with them."""
        self._spoilt.update(names)

    def stop(self) -> None:
        """End."""
        self._enough.set()
        self.join(10)
        assert self.error is None, f"the traffic broke off: {self.error!r}"


def made(name: str, seed: int, *, moved: bool = False, **columns: Any) -> list[Event]:
    """Events of a service in good health, with these columns in place of theirs: a value, or one for each."""
    rng = np.random.default_rng(seed)
    fixed: dict[str, Any] = {
        "service": name,
        "event_time": 0,
        "sampling_weight": 1.0,
        "tokenizer_version": "3",
        "tokenizer_digest": TOKENIZER,
        "status": "ok",
        "latency_seconds": rng.lognormal(-3.0, 0.5, _POOL).tolist(),
    }
    found = []
    for index, row in enumerate(events(_POOL, seed, moved=moved).to_pylist()):
        row |= {key: value[index] if isinstance(value, list) else value for key, value in fixed.items()}
        row["segments"] = dict(row["segments"])
        row["embedding"] = [float(value) for value in row["embedding"]]
        for key, value in columns.items():
            row[key] = value[index] if isinstance(value, list) else value
        found.append(msgspec.convert(row, Event))
    return found


def every(period: int, what: str, otherwise: str = "ok") -> list[str]:
    """A column with one thing evenly among another."""
    return [what if index % period == period - 1 else otherwise for index in range(_POOL)]


def wrong_tokenizer(name: str, seed: int) -> list[Event]:
    """The same text in pieces of another vocabulary: more tokens, many unknown, and answers about nothing."""
    rng = np.random.default_rng(seed)
    tokens = rng.poisson(1.6 * _TOKENS, _POOL) + 2
    return made(
        name,
        seed,
        moved=True,
        tokens=tokens.tolist(),
        unknown_tokens=rng.binomial(tokens, 0.3).tolist(),
        confidence=rng.beta(3, 4, _POOL).tolist(),
        tokenizer_version="2",
        tokenizer_digest="b" * 16,
    )


def yesterday(name: str, per_second: int, weight: float) -> list[Event]:
    """Requests of a day ago, scaled: from a little before this time of the day to three minutes after it."""
    start = time.time_ns() // 1000 - int(1e6 * (_DAY_SECONDS + 20))
    return [
        msgspec.structs.replace(
            event,
            event_id=f"{name}-yesterday-{number:x}",
            event_time=start + number * 1_000_000 // per_second,
            sampling_weight=weight,
        )
        for number, event in enumerate(made(name, 9)[: 200 * per_second])
    ]


def wrong_labels(sender: LabelSender, requests: Iterable[Event]) -> int:
    """Say of all requests that will be a day old within a minute and a half that they were answered wrongly.

    Returns:
        How many those were.
    """
    due = time.time_ns() // 1000 - int(1e6 * _DAY_SECONDS)
    late = [one for one in requests if due <= one.event_time <= due + 90_000_000]
    for one in late:
        label = Label(
            event_id=one.event_id,
            request_time=one.event_time,
            prediction=one.prediction,
            label=f"not {one.prediction}",
            model_version=one.model_version,
        )
        assert sender.send(label), "a label was dropped"
    return len(late)


def registry(path: Path, versions: dict[str, str]) -> None:
    """Write what should serve: a version for each service, and the tokenizer."""
    entries = [
        f'[[expected]]\nservice = "{name}"\nmodel = "{MODEL}"\nmodel_version = "{version}"\n'
        f'tokenizer_digest = "{TOKENIZER}"\n'
        for name, version in versions.items()
    ]
    path.write_text("version = 1\n" + "".join(entries))


def baseline(path: Path, versions: Iterable[tuple[str, str]]) -> None:
    """Write the kit's calibrated baseline as that of these services and versions."""
    one = calibrated()
    scopes = {ScopeKey(name, MODEL, version): one.scopes[KEY] for name, version in versions}
    save_baseline(replace(one, scopes=scopes), str(path))


def past(services: Iterable[Service]) -> Callable[[Specs, float], Iterator[str]]:
    """Three days without trouble at today's rates, ending now: what the rules recorded, and two counters."""
    rates = {service.name: service.per_second for service in services}

    def lines(specs: Specs, now: float) -> Iterator[str]:
        for objective in specs.objectives:
            labels = f'slo="{objective.name}"'
            if objective.name not in _PAST:
                continue
            if not objective.group_by:
                yield from _recorded(labels, 1.0, _PAST[objective.name], now)
                continue
            for name, rate in rates.items():
                theirs = f'{labels},service="{name}",model="{MODEL}"'
                yield from _recorded(theirs, rate, _PAST[objective.name], now)
        for name, rate in rates.items():
            yield from _counted(name, rate, now)

    return lines


def _recorded(labels: str, rate: float, counts: float | None, now: float) -> Iterator[str]:
    quantities = {"total": 1.0, "bad": 0.0}
    if counts is not None:
        squared = {"total_weight_squared": rate * counts**2, "bad_weight_squared": 0.0}
        quantities = {"total": rate * counts, "bad": 0.0, **squared}
    hour, days = 3600 / SCALE, 3 * _DAY_SECONDS
    for what, value in quantities.items():
        for moment in np.arange(now - hour, now, 60 / SCALE):
            yield f"mlmon_slo:{what}:rate5m{{{labels}}} {value} {moment:.3f}"
        for moment in np.arange(now - days, now, STEP):
            yield f"mlmon_slo:{what}:increase5m{{{labels}}} {value * STEP} {moment:.3f}"


def _counted(name: str, rate: float, now: float) -> Iterator[str]:
    labels = f'service="{name}",model="{MODEL}",version="{VERSION}",deployment="stable",segment=""'
    start = now - 25 * 3600 / SCALE
    for metric, share in (("tokens", 1.0), ("unknown_tokens", 0.001)):
        for moment in np.arange(start, now, STEP):
            value = (moment - start) * rate * _TOKENS * share
            yield f"mlmon_{metric}_total{{{labels}}} {value:.3f} {moment:.3f}"
