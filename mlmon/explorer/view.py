"""What is looked at: everything that a page's address says, so that any view can be sent to a colleague."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "SPANS",
    "Read",
    "View",
    "clock_text",
    "moment_text",
    "moment_us",
    "moment_words",
    "read_query",
    "span_text",
]

#: Stretches of time to choose from, by the name that stands in the address; seconds.
SPANS: Mapping[str, int] = {
    "1h": 3_600,
    "6h": 21_600,
    "24h": 86_400,
    "3d": 259_200,
    "7d": 604_800,
    "30d": 2_592_000,
}
_TEXTS = (
    "service",
    "model",
    "version",
    "deployment",
    "segment",
    "monitor",
    "field",
    "alert",
    "show",
    "other_version",
    "other_deployment",
    "other_segment",
    "other_from",
    "other_to",
    "budget",
    "window",
    "tolerance",
    "sampling",
)
_LONGEST = 256


@dataclass(frozen=True, slots=True)
class View:
    """What is looked at; empty texts mean all.

    Attributes:
        service: name of the service.
        model: of the model.
        version: of the model.
        deployment: stable, canary, shadow.
        segment: as series name it.
        monitor: whose field is looked at.
        field: the field.
        alert: the alert that led here.
        show: how the page shows it, in the page's own words.
        other_version: with what it is compared; likewise the next four, texts as in an address.
        other_deployment: likewise.
        other_segment: likewise.
        other_from: first moment; empty: the same time.
        other_to: last moment.
        budget: what is tried out: false pages a month.
        window: seconds.
        tolerance: standard deviations.
        sampling: as a share of the baseline's.
        span: a key of `SPANS`: how long before `end_us`.
        start_us: first moment, µs since 1970; None: `span` before the end.
        end_us: last moment, µs; None: the newest window there is.
    """

    service: str = ""
    model: str = ""
    version: str = ""
    deployment: str = ""
    segment: str = ""
    monitor: str = ""
    field: str = ""
    alert: str = ""
    show: str = ""
    other_version: str = ""
    other_deployment: str = ""
    other_segment: str = ""
    other_from: str = ""
    other_to: str = ""
    budget: str = ""
    window: str = ""
    tolerance: str = ""
    sampling: str = ""
    span: str = "24h"
    start_us: int | None = None
    end_us: int | None = None

    def to_query(self) -> dict[str, str]:
        """As an address says it; what is at its default is left out.

        Example:
            >>> View(service="shop", end_us=1_767_225_600_000_000).to_query()
            {'service': 'shop', 'to': '2026-01-01T00:00:00Z'}
        """
        found = {name: getattr(self, name) for name in _TEXTS if getattr(self, name)}
        if self.start_us is not None:
            found["from"] = moment_text(self.start_us)
        elif self.span != "24h":
            found["span"] = self.span
        if self.end_us is not None:
            found["to"] = moment_text(self.end_us)
        return found

    def bounds(self, newest_us: int) -> tuple[int, int]:
        """First and last moment, µs, when the newest window ends at `newest_us`."""
        end = newest_us if self.end_us is None else self.end_us
        start = end - SPANS[self.span] * 1_000_000 if self.start_us is None else self.start_us
        return min(start, end), end

    def filters(self) -> dict[str, str]:
        """Columns of the history and the values they must have."""
        names = ("service", "model", "version", "deployment", "segment")
        return {name: getattr(self, name) for name in names if getattr(self, name)}

    def around(self, at_us: int, seconds: int) -> View:
        """The same, so many seconds before and after a moment."""
        half = seconds * 1_000_000
        return replace(self, start_us=at_us - half, end_us=at_us + half)


class Read(NamedTuple):
    """A view as an address says it, and what in the address was not understood."""

    view: View
    complaints: tuple[str, ...]


def read_query(query: Mapping[str, str]) -> Read:
    """Read an address. What cannot be read has its default, and a complaint that says what was expected.

    `at` with `span` is what alerts link to: the span around a moment.

    Example:
        >>> read_query({"service": "shop", "span": "2 weeks"}).complaints
        ("span: expected one of 1h, 6h, 24h, 3d, 7d, 30d; got '2 weeks'",)
    """
    complaints: list[str] = []
    texts = {name: str(query.get(name, ""))[:_LONGEST] for name in _TEXTS}
    span = query.get("span", "24h")
    if span not in SPANS:
        complaints.append(f"span: expected one of {', '.join(SPANS)}; got {span[:40]!r}")
        span = "24h"
    start, end = (_moment(name, query.get(name), complaints) for name in ("from", "to"))
    if start is not None and end is not None and start >= end:
        complaints.append(f"from, to: expected from before to; got {query['from']!r} and {query['to']!r}")
        start = end = None
    view = View(**texts, span=span, start_us=start, end_us=end)
    at = _moment("at", query.get("at"), complaints)
    if at is not None:
        view = view.around(at, SPANS[span] // 2)
    return Read(view, tuple(complaints))


def moment_text(time_us: int) -> str:
    """A moment in UTC, to the second."""
    return datetime.fromtimestamp(time_us // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment_words(time_us: int) -> str:
    """A moment for people, to the nearest second: where a stretch of time is open it ends 1 µs later.

    Example:
        >>> moment_words(1_767_225_599_999_999)
        '2026-01-01 00:00:00 UTC'
    """
    return moment_text(time_us + 500_000).replace("T", " ").replace("Z", " UTC")


def clock_text(moment: datetime) -> str:
    """Hours and minutes, and seconds where windows are not whole minutes.

    Example:
        >>> clock_text(datetime(2026, 1, 31, 12, 30)), clock_text(datetime(2026, 1, 31, 12, 30, 5))
        ('12:30', '12:30:05')
    """
    return f"{moment:%H:%M:%S}" if moment.second else f"{moment:%H:%M}"


def span_text(seconds: float) -> str:
    """A stretch of time for people.

    Example:
        >>> span_text(4), span_text(150)
        ('4 s', '2.5 min')
    """
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _moment(name: str, text: str | None, complaints: list[str]) -> int | None:
    if not text:
        return None
    moment = moment_us(text)
    if moment is None:
        complaints.append(f"{name}: expected a time such as 2026-01-31T12:30:00Z; got {text[:40]!r}")
    return moment


def moment_us(text: str) -> int | None:
    """A moment, µs since 1970; one without a time zone is in UTC. None for what is no time.

    Example:
        >>> moment_us("1970-01-01T00:00:01"), moment_us("yesterday")
        (1000000, None)
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
