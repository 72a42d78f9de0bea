"""When to page: one budget of false pages over all detectors of a service and model.

A detector is one field of one series. Each keeps an e-CUSUM, M ← e·max(1, M), of the e-values of its
windows (Shin, Ramdas, Rinaldo 2023). It never exceeds the Shiryaev-Roberts e-detector of the same e-values,
whose mean after t windows is at most t when nothing moved; so the first time that a weighted mean of
detectors reaches A comes on average after A windows or more, however many detectors there are and however
they depend on each other. A = windows in 30 days / false pages in 30 days. Why not the Shiryaev-Roberts form
itself: windows without evidence (e = 1) add 1 to it each, and a quiet service would be paged once in A
windows for nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Alarm", "Detector", "Evidence", "Pager", "Standing", "cause_of"]

#: What a page is blamed on, first match first.
PRECEDENCE = ("version", "tokenizer", "embeddings", "features", "predictions")
#: Tokenizer fields that a change of topic moves as well: they speak of the input, not of the tokenizer.
_CONTENT = frozenset({"tokenizer/token_ids", "tokenizer/length"})
#: A detector with this much evidence of its own can be the root cause although others have more.
_SIGNIFICANT = math.log(100.0)
#: Windows in a row without evidence after which an open page is over.
_QUIET_WINDOWS = 6
#: Evidence beyond e^600 says nothing more, and stays finite when it is added up.
_CAP = 600.0


class Detector(NamedTuple):
    """What a detector watches: a field ("monitor/field") of a series of the group."""

    version: str
    deployment: str
    segment: str
    field: str


class Evidence(NamedTuple):
    """What one window says to a detector: the log of its e-value, and the detector's share of the budget."""

    log_e: float
    weight: float


class Standing(NamedTuple):
    """Evidence after a window: over all detectors, and log M of each that has any."""

    total: float
    log_m: Mapping[Detector, float]


@dataclass(slots=True)
class Alarm:
    """A page that is open.

    Attributes:
        since_us: end of the window that crossed the threshold.
        cause: of `PRECEDENCE`.
        version: of the detector that carries most of it.
        segment: its segment, "" for all.
        field: its field, "monitor/field".
        culprits: detectors that carried it.
        quiet: windows in a row without evidence from them together.
    """

    since_us: int
    cause: str
    version: str
    segment: str
    field: str
    culprits: list[Detector]
    quiet: int = 0

    def state(self) -> list[Any]:
        """What the checkpoint keeps."""
        culprits = [list(culprit) for culprit in self.culprits]
        return [self.since_us, self.cause, self.version, self.segment, self.field, culprits, self.quiet]

    @staticmethod
    def restored(state: list[Any]) -> Alarm:
        """The alarm that `state` was made of."""
        since_us, cause, version, segment, name, culprits, quiet = state
        return Alarm(since_us, cause, version, segment, name, [Detector(*c) for c in culprits], quiet)


@dataclass(slots=True)
class Pager:
    """Evidence of one (service, model).

    Memory: one number for each detector that has evidence.

    Attributes:
        log_m: natural log of M by detector, kept where it is above 0.
        weights: of those detectors, as of their last window.
        alarm: the page that is open.
        pages: pages since the first checkpoint.
    """

    log_m: dict[Detector, float] = field(default_factory=dict)
    weights: dict[Detector, float] = field(default_factory=dict)
    alarm: Alarm | None = None
    pages: int = 0

    def update(
        self, evidence: Mapping[Detector, Evidence], threshold: float, end_us: int, *, wrong_version: bool
    ) -> Standing:
        """Take in a window: every detector that it has something to say to.

        Args:
            evidence: by detector.
            threshold: A.
            end_us: the window's end, µs.
            wrong_version: whether traffic was on a version that nobody declared.

        Returns:
            The evidence before a page takes it back to nothing.
        """
        for detector, (log_e, weight) in evidence.items():
            held = min(log_e + max(0.0, self.log_m.get(detector, 0.0)), _CAP)
            if held > 0.0:
                self.log_m[detector] = held
                self.weights[detector] = weight
            else:
                self.log_m.pop(detector, None)
                self.weights.pop(detector, None)
        total = self.total()
        standing = Standing(total, dict(self.log_m))
        if self.alarm is not None:
            self._follow(evidence)
        if total >= threshold:
            self._page(end_us, wrong_version=wrong_version)
        return standing

    def total(self) -> float:
        """The weighted mean of M over all detectors; those without evidence count 0."""
        return sum(self.weights[detector] * math.exp(m) for detector, m in self.log_m.items())

    def _follow(self, evidence: Mapping[Detector, Evidence]) -> None:
        """Close the open page once those that carried it have had no evidence together for long enough."""
        alarm = self.alarm
        heard = [evidence[c].log_e for c in alarm.culprits if c in evidence] if alarm is not None else []
        if alarm is None or not heard:
            return
        # the mean of e-values is an e-value: asking each of many to be quiet at once would take for ever
        mean = sum(math.exp(min(log_e, _CAP)) for log_e in heard) / len(heard)
        alarm.quiet = alarm.quiet + 1 if mean <= 1.0 else 0
        if alarm.quiet >= _QUIET_WINDOWS:
            self.alarm = None

    def _page(self, end_us: int, *, wrong_version: bool) -> None:
        """Open a page, or go on with the one that is open when the cause is still the same."""
        shares = {detector: self.weights[detector] * math.exp(m) for detector, m in self.log_m.items()}
        largest = max(shares.values())
        culprits = [d for d, m in self.log_m.items() if m >= _SIGNIFICANT or shares[d] >= 0.05 * largest]
        culprits.sort(key=lambda d: (PRECEDENCE.index(cause_of(d.field)), -shares[d]))
        first = culprits[0]
        cause = "version" if wrong_version else cause_of(first.field)
        if self.alarm is None or self.alarm.cause != cause:
            self.pages += 1
            self.alarm = Alarm(end_us, cause, first.version, first.segment, first.field, culprits)
        self.alarm.quiet = 0
        self.log_m.clear()
        self.weights.clear()

    def forget(self, version: str, deployment: str, segment: str) -> None:
        """Drop the evidence of a series that is no longer served."""
        gone = (version, deployment, segment)
        for detector in [d for d in self.log_m if d[:3] == gone]:
            del self.log_m[detector]
            del self.weights[detector]

    def state(self) -> list[Any]:
        """What the checkpoint keeps."""
        rows = [[*detector, m, self.weights[detector]] for detector, m in self.log_m.items()]
        return [rows, None if self.alarm is None else self.alarm.state(), self.pages]

    @staticmethod
    def restored(state: list[Any]) -> Pager:
        """The pager that `state` was made of."""
        rows, alarm, pages = state
        pager = Pager(alarm=None if alarm is None else Alarm.restored(alarm), pages=pages)
        for *detector, m, weight in rows:
            pager.log_m[Detector(*detector)] = m
            pager.weights[Detector(*detector)] = weight
        return pager


def cause_of(name: str) -> str:
    """What a field ("monitor/field") would be the root cause of.

    Example:
        >>> cause_of("tokenizer/unknown"), cause_of("tokenizer/token_ids"), cause_of("features/amount")
        ('tokenizer', 'features', 'features')
    """
    if name in _CONTENT:
        return "features"
    monitor = name.split("/", 1)[0]
    return monitor if monitor in PRECEDENCE else PRECEDENCE[-1]
