"""What the demo shows: announcements that stay, and between them the numbers of the newest scrape."""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from rich.live import Live
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from mlmon.demo.figures import Figures

__all__ = ["Screen", "evidence_text", "percent"]

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


class Screen:
    """A live table on a terminal, a line every few seconds elsewhere; announcements in both.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._recent: deque[Figures] = deque(maxlen=_RECENT)
        self._next_line = 0.0
        self.title = "mlmon demo"

    def __enter__(self) -> Screen:
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

    def show(self, figures: Figures) -> None:
        """Show a scrape."""
        self._recent.append(figures)
        if self._live is not None:
            self._live.update(self._table(figures))
        elif figures.at >= self._next_line:
            self._next_line = figures.at + _LINE_SECONDS
            self.say(self._line(figures))

    def pause(self) -> None:
        """Something was just said: the next line of numbers waits."""
        if self._recent:
            self._next_line = self._recent[-1].at + _LINE_SECONDS / 2

    def _rate(self) -> float:
        first, last = self._recent[0], self._recent[-1]
        return (last.requests - first.requests) / (last.at - first.at) if last.at > first.at else 0.0

    def _line(self, now: Figures) -> str:
        moved = now.drift.get("embeddings/shift")
        distance = "-" if moved is None else f"{moved.effect:.2f} sd"
        return (
            f"  {now.requests:>6,.0f} requests  {now.errors:.0f} errors  unknown tokens "
            f"{percent(now.unknown_ratio):>6}  embeddings moved {distance}  evidence {evidence_text(now)}"
        )

    def _table(self, now: Figures) -> Table:
        table = Table(title=self.title, title_justify="left")
        table.add_column("what", min_width=30)
        table.add_column("now", justify="right", min_width=44)
        for name, value in self._rows(now):
            table.add_row(name, Text(value, "bold red" if name == "page" and now.page else ""))
        return table

    def _rows(self, now: Figures) -> Iterator[tuple[str, str]]:
        yield "requests", f"{now.requests:,.0f} ({self._rate():.0f}/s)"
        yield "errors", f"{now.errors:,.0f}"
        yield "unknown tokens", percent(now.unknown_ratio)
        yield "on wrong versions", percent(now.mismatch_ratio)
        for field, name in _SHOWN.items():
            moved = now.drift.get(field)
            text = "-" if moved is None else f"{moved.effect:.2f} sd (tolerated: {moved.tolerance:.2f})"
            yield name, text
        yield "evidence of a drift", evidence_text(now)
        page = now.page
        yield "page", "none" if page is None else f"{page.cause} ({page.field})"
        yield "sidecar is behind", f"{now.lag_seconds:.1f} s"


def percent(value: float | None) -> str:
    """A ratio for people."""
    return "-" if value is None else f"{100 * value:.2f} %"


def evidence_text(now: Figures) -> str:
    """How near a page is."""
    if now.evidence is None or now.threshold is None:
        return "-"
    return f"{now.evidence:,.{0 if now.evidence >= 10 else 2}f} of {now.threshold:,.0f}"
