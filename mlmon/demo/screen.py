"""What the demo shows: announcements that stay, and between them the numbers of the newest scrape."""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from rich.live import Live
from rich.table import Table
from rich.text import Text

from mlmon.demo.figures import Figures

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from rich.console import Console

__all__ = ["Board", "Screen", "evidence_text", "percent"]

#: Scrapes that the rate is averaged over.
_RECENT = 16
_LINE_SECONDS = 4.0
#: Fields of the table, and what they are called there.
_SHOWN = {
    "embeddings/shift": "mean embedding has moved",
    "embeddings/typicality": "embeddings' spread has moved",
    "predictions/class": "mix of answers has moved",
    "predictions/confidence": "confidence has moved",
}


class _Scrape(Protocol):
    """What any scrape says."""

    @property
    def at(self) -> float:
        """Monotonic time, seconds."""

    @property
    def requests(self) -> float:
        """Estimated requests so far."""


_ScrapeT = TypeVar("_ScrapeT", bound=_Scrape)


class Board(Generic[_ScrapeT]):
    """A live table on a terminal, a line every few seconds elsewhere; announcements in both.

    A subclass says what of a scrape is shown.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._recent: deque[_ScrapeT] = deque(maxlen=_RECENT)
        self._next_line = 0.0
        self.title = "mlmon demo"

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4)
            self._live.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._live.__exit__(None, None, None)

    @contextmanager
    def busy(self, text: str) -> Iterator[None]:
        """Announce something that takes a while; on a terminal something moves meanwhile."""
        self.say(f"{text} ...")
        with self._console.status("") if self._console.is_terminal else nullcontext():
            yield

    def say(self, text: str, style: str = "", *, wrap: bool = False) -> None:
        """Announce something; it stays. Lines are left as they are, unless told otherwise."""
        self._console.print(text, style=style or None, soft_wrap=not wrap, highlight=False, markup=False)

    def show(self, figures: _ScrapeT) -> None:
        """Show a scrape."""
        self._recent.append(figures)
        if self._live is not None:
            self._live.update(self._table(figures))
        elif figures.at >= self._next_line:
            self._next_line = figures.at + _LINE_SECONDS
            self.say(self.line(figures))

    def pause(self) -> None:
        """Something was just said: the next line of numbers waits."""
        if self._recent:
            self._next_line = self._recent[-1].at + _LINE_SECONDS / 2

    def rate(self) -> float:
        """Requests a second over the newest scrapes."""
        first, last = self._recent[0], self._recent[-1]
        return (last.requests - first.requests) / (last.at - first.at) if last.at > first.at else 0.0

    def line(self, now: _ScrapeT) -> str:
        """A scrape in a line."""
        raise NotImplementedError

    def rows(self, now: _ScrapeT) -> Iterator[tuple[str, str, str]]:
        """A scrape in a table: names, values, and the style of each value."""
        raise NotImplementedError

    def _table(self, now: _ScrapeT) -> Table:
        table = Table(title=self.title, title_justify="left")
        table.add_column("what", min_width=30)
        table.add_column("now", justify="right", min_width=44)
        for name, value, style in self.rows(now):
            table.add_row(name, Text(value, style))
        return table


class Screen(Board[Figures]):
    """The board of `mlmon demo`."""

    def line(self, now: Figures) -> str:
        """The least that shows whether all is well."""
        moved = now.drift.get("embeddings/shift")
        distance = "-" if moved is None else f"{moved.effect:.2f} sd"
        return (
            f"  {now.requests:>6,.0f} requests  {now.errors:.0f} errors  unknown tokens "
            f"{percent(now.unknown_ratio):>6}  embeddings moved {distance}  evidence {evidence_text(now)}"
        )

    def rows(self, now: Figures) -> Iterator[tuple[str, str, str]]:
        """Everything that is watched."""
        page = now.page
        shown = "none" if page is None else f"{page.cause} ({page.field})"
        for name, value in self._values(now):
            yield name, value, ""
        yield "page", shown, "bold red" if page else ""
        yield "sidecar is behind", f"{now.lag_seconds:.1f} s", ""

    def _values(self, now: Figures) -> Iterator[tuple[str, str]]:
        yield "requests", f"{now.requests:,.0f} ({self.rate():.0f}/s)"
        yield "errors", f"{now.errors:,.0f}"
        yield "unknown tokens", percent(now.unknown_ratio)
        yield "on wrong versions", percent(now.mismatch_ratio)
        for field, name in _SHOWN.items():
            moved = now.drift.get(field)
            text = "-" if moved is None else f"{moved.effect:.2f} sd (tolerated: {moved.tolerance:.2f})"
            yield name, text
        yield "evidence of a drift", evidence_text(now)


def percent(value: float | None) -> str:
    """A ratio for people."""
    return "-" if value is None else f"{100 * value:.2f} %"


def evidence_text(now: Figures) -> str:
    """How near a page is."""
    if now.evidence is None or now.threshold is None:
        return "-"
    return f"{now.evidence:,.{0 if now.evidence >= 10 else 2}f} of {now.threshold:,.0f}"
