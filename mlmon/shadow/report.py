"""What the replays of a window say together; numbers and names, no text."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from mlmon.burn.bounds import wilson_lower
from mlmon.monitors.shadow import mean_interval
from mlmon.shadow.calibration import calibration_error
from mlmon.shadow.similarity import linear_cka

if TYPE_CHECKING:
    from mlmon.attach.mirror_record import MirrorRecord
    from mlmon.shadow.clients import MaskedCount
    from mlmon.shadow.compare import Comparison
    from mlmon.shadow.config import ShadowConfig

__all__ = ["MaskedResult", "Mean", "Outcome", "SegmentAgreement", "WindowReport", "WindowSums"]

#: Pairs of embeddings that are kept of a window: a Gram matrix is quadratic in them.
_MOST_PAIRS = 512
_MOST_PREDICTIONS = 20_000
_MOST_SEGMENTS = 50
_OTHER = "other"
#: Replays below which nothing is found, and the one-sided level of what is.
_LEAST, _LEVEL = 20, 0.99
_MEANS = (
    "topk_overlap",
    "rank_biased_overlap",
    "probability_difference",
    "mean_difference",
    "kl_divergence",
    "embedding_cosine",
)
_SHARES = ("agreement", "echo")


class Mean(msgspec.Struct, frozen=True):
    """A weighted mean with its 95 % interval, and the replays it rests on."""

    value: float
    low: float | None
    high: float | None
    n: int
    n_eff: float


class SegmentAgreement(msgspec.Struct, frozen=True):
    """Agreement in one segment, `name=value`."""

    segment: str
    agreement: Mean


class MaskedResult(msgspec.Struct, frozen=True):
    """Masked tokens that came back: `loss` is the mean of -ln p in nats."""

    tokens: int
    right: int
    accuracy: float
    loss: float


class WindowReport(msgspec.Struct, frozen=True, kw_only=True):
    """One window.

    Attributes:
        start_us, end_us: time of the requests, µs since 1970 UTC.
        service, model: whose requests.
        reference: whom they were replayed to.
        replayed: requests; `evaluated` of them say something, `void` the others by reason.
        shares: agreement and echo.
        means: the other measures.
        segments: agreement by segment, the largest first; the rest as `other`.
        cka: linear CKA of production's and the reference's embeddings.
        masked: self-labelled tokens of `production` and `reference`.
        calibration: expected calibration error of both servers' first answers to masked words.
        findings: what is surely below its target, in words.
    """

    start_us: int
    end_us: int
    service: str
    model: str
    reference: str
    replayed: int
    evaluated: int
    void: dict[str, int]
    shares: dict[str, Mean]
    means: dict[str, Mean]
    segments: tuple[SegmentAgreement, ...]
    cka: float | None
    masked: dict[str, MaskedResult]
    calibration: dict[str, float]
    findings: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What came of one replayed request.

    Attributes:
        record: the request.
        comparison: None where there is nothing to compare; `void` says why.
        masked: self-labels by server, with the first answer's probability where it is known.
        pair: embeddings of production and reference.
    """

    record: MirrorRecord
    comparison: Comparison | None = None
    void: str = ""
    masked: tuple[tuple[str, MaskedCount, float | None], ...] = ()
    pair: tuple[np.ndarray[tuple[int], np.dtype[np.float64]], ...] | None = None


class _Weighted:
    """Sums of a measure: n, Σw, Σw², Σwx, Σw²x, Σw²x²."""

    __slots__ = ("row",)

    def __init__(self) -> None:
        self.row = np.zeros(6)

    def add(self, value: float, weight: float) -> None:
        self.row += (1, weight, weight**2, weight * value, weight**2 * value, (weight * value) ** 2)

    def mean(self, *, shares: bool) -> Mean:
        value, n_eff, interval = mean_interval(self.row, shares=shares)
        low, high = interval or (None, None)
        return Mean(value, low, high, int(self.row[0]), n_eff)


class WindowSums:
    """A window that is being filled. Memory: 1 MB and its pairs of embeddings, at most 512."""

    def __init__(self, config: ShadowConfig, start_us: int, service: str, model: str) -> None:
        self._config = config
        self._start_us, self._service, self._model = start_us, service, model
        self._replayed = self._evaluated = 0
        self._void: Counter[str] = Counter()
        self._sums = {name: _Weighted() for name in (*_SHARES, *_MEANS)}
        self._segments: dict[str, _Weighted] = {}
        self._pairs: list[tuple[np.ndarray[tuple[int], np.dtype[np.float64]], ...]] = []
        self._masked: dict[str, list[float]] = {}
        self._predictions: dict[str, list[tuple[float, bool]]] = {}

    def add(self, outcome: Outcome) -> None:
        """Count a replayed request."""
        self._replayed += 1
        self._self_labelled(outcome)
        found = outcome.comparison
        if found is None or not found.says_anything:
            self._void[outcome.void or "no_answer"] += 1
            return
        self._evaluated += 1
        weight = outcome.record.sampling_weight
        for name, sums_of in self._sums.items():
            value = getattr(found, name)
            if value is not None:
                sums_of.add(float(value), weight)
        if found.agreement is not None:
            for segment in _segments(outcome.record):
                self._segment(segment).add(found.agreement, weight)
        if outcome.pair is not None and len(self._pairs) < _MOST_PAIRS:
            self._pairs.append(outcome.pair)

    def report(self, reference: str) -> WindowReport:
        """What the window says."""
        shares = self._means(_SHARES)
        length_us = round(self._config.window_seconds * 1e6)
        return WindowReport(
            start_us=self._start_us,
            end_us=self._start_us + length_us,
            service=self._service,
            model=self._model,
            reference=reference,
            replayed=self._replayed,
            evaluated=self._evaluated,
            void=dict(sorted(self._void.items())),
            shares=shares,
            means=self._means(_MEANS),
            segments=tuple(
                SegmentAgreement(name, sums.mean(shares=True))
                for name, sums in sorted(self._segments.items(), key=lambda item: (-item[1].row[0], item[0]))
            ),
            cka=self._cka(),
            masked={
                server: MaskedResult(int(tokens), int(right), right / tokens, loss / tokens)
                for server, (tokens, right, loss) in sorted(self._masked.items())
                if tokens
            },
            calibration=self._calibration(),
            findings=tuple(self._findings(shares)),
        )

    def _self_labelled(self, outcome: Outcome) -> None:
        for server, count, confidence in outcome.masked:
            sums = self._masked.setdefault(server, [0, 0, 0.0])
            for place, value in enumerate((count.tokens, count.right, count.loss)):
                sums[place] += value
            if confidence is not None:
                self._predicted(server, confidence, right=count.right == 1)

    def _means(self, names: tuple[str, ...]) -> dict[str, Mean]:
        return {
            name: self._sums[name].mean(shares=name in _SHARES) for name in names if self._sums[name].row[0]
        }

    def _segment(self, name: str) -> _Weighted:
        if name not in self._segments and len(self._segments) >= _MOST_SEGMENTS:
            name = _OTHER
        return self._segments.setdefault(name, _Weighted())

    def _predicted(self, kind: str, confidence: float, *, right: bool) -> None:
        held = self._predictions.setdefault(kind, [])
        if len(held) < _MOST_PREDICTIONS:
            held.append((confidence, right))

    def _cka(self) -> float | None:
        """Of the pairs whose dimensions are those of the first."""
        if not self._pairs:
            return None
        shapes = [one.shape for one in self._pairs[0]]
        alike = [pair for pair in self._pairs if [one.shape for one in pair] == shapes]
        ours, theirs = (np.stack([pair[side] for pair in alike]) for side in (0, 1))
        return linear_cka(ours, theirs)

    def _calibration(self) -> dict[str, float]:
        found = {}
        for kind, held in sorted(self._predictions.items()):
            confidences, right = np.array(held, float).T
            error = calibration_error(confidences, right > 0)
            if error is not None:
                found[kind] = error
        return found

    def _findings(self, shares: dict[str, Mean]) -> list[str]:
        """Shares that are surely below their targets."""
        found = []
        targets = {"agreement": self._config.agreement_target, "echo": self._config.echo_target}
        for name, share in shares.items():
            if share.n < _LEAST:
                continue
            least = _bad_at_least(share)
            if least > 1 - targets[name]:
                found.append(
                    f"{name}: {share.value:.1%} of {share.n} replayed requests, target "
                    f"{targets[name]:.1%}; with "
                    f"{_LEVEL:.0%} confidence at least {least:.1%} are bad"
                )
        return found


def _bad_at_least(share: Mean) -> float:
    """Lower bound of the share that is bad."""
    bound = wilson_lower(np.array([1 - share.value]), np.array([share.n_eff]), np.array([_LEVEL]))
    return float(bound[0])


def _segments(record: MirrorRecord) -> list[str]:
    return [f"{name}={value}" for name, value in sorted((record.segments or {}).items())]
