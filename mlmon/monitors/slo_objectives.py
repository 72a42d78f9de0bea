"""The objectives that the sidecar judges events by: read from a file, and cut into buckets of request time.

The file is `objectives.json`, which `mlmon render` makes from the specs, so that the sidecar needs neither
YAML nor OpenSLO. Everything here is frozen; `Judging` is what the monitor and the ledger of burns share.

Time is counted in base buckets of one minute (divided by `time_scale`). Short windows are cut into those,
windows of days into five, the period into sixty, and coarser where labels may come so late that there would
be too many.
"""

from __future__ import annotations

import hashlib
from datetime import datetime  # noqa: TC003 - msgspec reads the annotation
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec

from mlmon.errors import ConfigError

__all__ = [
    "BASE_SECONDS",
    "LABELLED",
    "SHORT_SECONDS",
    "JudgeName",
    "JudgedObjective",
    "JudgedVersion",
    "Judging",
    "ObjectivesFile",
    "Tiers",
    "read_objectives",
    "tiers_of",
    "units_of",
]

JudgeName = Literal["availability", "latency", "accuracy", "masked-accuracy", "agreement", "echo"]
#: Judges that need what is known of a request only later.
LABELLED = frozenset({"accuracy", "masked-accuracy", "agreement", "echo"})
#: Length of a base bucket.
BASE_SECONDS = 60
#: Longest window that is cut into base buckets.
SHORT_SECONDS = 6 * 3600
#: Most buckets of one length; with 48 bytes each 440 kB.
_MAX_BUCKETS = 9_216
#: Lengths a bucket may have, in base buckets; each divides the next.
_LADDER = (1, 5, 15, 60, 120, 360, 720, 1440)
_READ: dict[JudgeName, tuple[str, ...]] = {
    "availability": ("status",),
    "latency": ("latency_seconds",),
    "accuracy": ("label", "prediction"),
    "masked-accuracy": ("labelled_masked_tokens", "right_masked_tokens"),
    "agreement": ("agreement",),
    "echo": ("echo",),
}
_DAY = 86_400
_MAX_BYTES = 1024 * 1024

_Seconds = Annotated[int, msgspec.Meta(ge=BASE_SECONDS, le=366 * _DAY)]


class JudgedVersion(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is in force from a moment on.

    Attributes:
        target: share of good events that is asked for.
        judge: how an event is judged.
        limit_seconds: latency above which an event is bad; for the judge latency alone.
        effective_from: when it begins; None: from ever.
    """

    target: Annotated[float, msgspec.Meta(ge=0, lt=1)]
    judge: JudgeName
    limit_seconds: Annotated[float, msgspec.Meta(gt=0)] | None = None
    effective_from: Annotated[datetime, msgspec.Meta(tz=True)] | None = None

    def __post_init__(self) -> None:
        if (self.judge == "latency") is (self.limit_seconds is None):
            raise ValueError(f"limit_seconds goes with the judge latency, and only with it; got {self.judge}")

    @property
    def budget(self) -> float:
        """Share of events that may be bad."""
        return round(1 - self.target, 12)

    @property
    def since_us(self) -> int | None:
        """When it begins, µs."""
        return None if self.effective_from is None else round(self.effective_from.timestamp() * 1e6)


class JudgedObjective(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One objective, as far as the sidecar judges it.

    Attributes:
        name: value of the label `slo`.
        versions: what is in force when, oldest first.
        window_seconds: the period of its budget.
        burn_windows_seconds: windows over which its burn is measured, shortest first.
        coverage_window_seconds: the one over which label coverage is measured.
        label_delay_seconds: how long the truth may take; windows end so long before the watermark.
        minimum_coverage: share of requests with a label below which a page becomes a ticket.
        confidence: one-sided level of the lower bound.
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=120)]
    versions: Annotated[tuple[JudgedVersion, ...], msgspec.Meta(min_length=1, max_length=32)]
    window_seconds: _Seconds
    burn_windows_seconds: Annotated[tuple[_Seconds, ...], msgspec.Meta(min_length=1, max_length=16)]
    coverage_window_seconds: _Seconds
    label_delay_seconds: Annotated[int, msgspec.Meta(ge=0, le=30 * _DAY)] = 0
    minimum_coverage: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    confidence: Annotated[float, msgspec.Meta(ge=0.5, lt=1)] = 0.95

    def __post_init__(self) -> None:
        if list(self.burn_windows_seconds) != sorted(set(self.burn_windows_seconds)):
            raise ValueError(f"{self.name}: burn_windows_seconds must rise; got {self.burn_windows_seconds}")
        if self.coverage_window_seconds not in self.burn_windows_seconds:
            raise ValueError(
                f"{self.name}: coverage_window_seconds must be one of burn_windows_seconds; "
                f"got {self.coverage_window_seconds}"
            )
        starts = [version.since_us for version in self.versions]
        known = [start for start in starts if start is not None]
        if None in starts[1:] or known != sorted(set(known)):
            raise ValueError(f"{self.name}: effective_from must rise, and only the first may lack it")
        if len({version.judge for version in self.versions}) > 1:
            raise ValueError(f"{self.name}: versions must have one judge, since one budget counts one thing")

    @property
    def judge(self) -> JudgeName:
        """How its events are judged."""
        return self.versions[-1].judge

    @property
    def budget(self) -> float:
        """Share of events that may be bad, by the newest version."""
        return self.versions[-1].budget

    @property
    def labelled(self) -> bool:
        """Whether it rests on labels."""
        return self.judge in LABELLED


class ObjectivesFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`objectives.json`."""

    version: Literal[1]
    objectives: Annotated[tuple[JudgedObjective, ...], msgspec.Meta(max_length=32)]

    def __post_init__(self) -> None:
        names = [objective.name for objective in self.objectives]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"objectives must have different names; twice: {', '.join(twice)}")


class Tiers(NamedTuple):
    """How the time of one objective is cut: three lengths of buckets.

    Attributes:
        lengths: of a bucket, in base buckets; each divides the next.
        reach: how far back from the watermark each is held, in base buckets.
    """

    lengths: tuple[int, int, int]
    reach: tuple[int, int, int]


def units_of(seconds: int) -> int:
    """Base buckets in a nominal duration, rounded up.

    Example:
        >>> units_of(3600), units_of(250)
        (60, 5)
    """
    return -(-seconds // BASE_SECONDS)


def tiers_of(windows_seconds: tuple[int, ...], period_seconds: int, delay_seconds: int) -> Tiers:
    """Cut time for some windows, a period, and a delay.

    Each tier is held two of the longest buckets longer than its windows ask, since a window begins with a
    whole bucket and is read when a window of events closes, which is a little later than its labels came.

    Example:
        >>> tiers_of((300, 3600, 21600, 86400, 259200), 30 * 86400, 86400)
        Tiers(lengths=(1, 5, 60), reach=(1920, 5880, 44760))
    """
    short = max((w for w in windows_seconds if w <= SHORT_SECONDS), default=BASE_SECONDS)
    long = max((w for w in windows_seconds if w > SHORT_SECONDS), default=short)
    delay = units_of(delay_seconds)
    spans = [delay + units_of(span) for span in (short, long, period_seconds)]
    lengths: list[int] = []
    for least, span in zip((1, 5, 60), spans, strict=True):
        lengths.append(next(n for n in _LADDER if n >= max([least, *lengths]) and span <= _MAX_BUCKETS * n))
    # what is left over of a long bucket is read from short ones
    spans[0] = max(spans[0], delay + lengths[2])
    first, second, third = (max(spans[: index + 1]) + 2 * lengths[2] for index in range(3))
    return Tiers((lengths[0], lengths[1], lengths[2]), (first, second, third))


class Judging:
    """Objectives with the clock they are judged by.

    Args:
        objectives: what is judged.
        time_scale: every window, delay and bucket is divided by it.

    Attributes:
        base_us: length of a base bucket, µs.
        tiers: how the time of each objective is cut.
        digest: tells apart objectives whose sums cannot be added.
        fields: optional event fields that the judges read.
    """

    def __init__(self, objectives: tuple[JudgedObjective, ...], time_scale: float = 1.0) -> None:
        self.objectives = objectives
        self.time_scale = time_scale
        self.base_us = max(1, round(BASE_SECONDS * 1e6 / time_scale))
        self.tiers = tuple(
            tiers_of(o.burn_windows_seconds, o.window_seconds, o.label_delay_seconds) for o in objectives
        )
        self.digest = hashlib.blake2b(msgspec.json.encode(objectives), digest_size=8).hexdigest()
        self.fields = frozenset({"sampling_weight", "request_time"}).union(
            *(_READ[objective.judge] for objective in objectives)
        )

    def __str__(self) -> str:
        """For messages.

        Example:
            >>> str(Judging((), 60.0))
            '0 objectives (71857576257465c7) at time scale 60'
        """
        return f"{len(self.objectives)} objectives ({self.digest}) at time scale {self.time_scale:g}"

    def delay_us(self, objective: JudgedObjective) -> int:
        """The label delay, scaled."""
        return round(objective.label_delay_seconds * 1e6 / self.time_scale)


def read_objectives(path: str = "", time_scale: float = 1.0) -> Judging:
    """Read what is judged.

    Args:
        path: of an `objectives.json`; empty: the one that ships.
        time_scale: every window, delay and bucket is divided by it.

    Raises:
        ConfigError: the file cannot be read, or is none of objectives.
    """
    where = path or "mlmon/monitors/objectives.json"
    try:
        if path:
            data = Path(path).read_bytes()
        else:
            data = resources.files("mlmon.monitors").joinpath("objectives.json").read_bytes()
    except OSError as error:
        raise ConfigError(
            f"monitors.slo.objectives_file: expected the file that `mlmon render` writes; {where}: "
            f"{error.strerror}. Name that file, or leave the key out for the objectives that ship."
        ) from None
    if len(data) > _MAX_BYTES:
        raise ConfigError(
            f"monitors.slo.objectives_file: expected at most {_MAX_BYTES} bytes; {where} has {len(data)}"
        )
    try:
        return Judging(msgspec.json.decode(data, type=ObjectivesFile).objectives, time_scale)
    except (msgspec.DecodeError, ValueError) as error:
        raise ConfigError(
            f"monitors.slo.objectives_file: {where}: expected objectives as `mlmon render` writes them; "
            f"{error}. Render it again, or correct the key named."
        ) from None
