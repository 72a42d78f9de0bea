"""What the live demo shows of a scrape: what any monitor sees, and what the replays say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlmon.demo.live_figures import PAGE_BURN, LiveFigures, target_of
from mlmon.demo.screen import Board, percent

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["LiveScreen", "number"]


class LiveScreen(Board[LiveFigures]):
    """The board of `mlmon demo --live`."""

    def line(self, now: LiveFigures) -> str:
        """The least that shows whether all is well."""
        return (
            f"  {now.requests:>5,.0f} requests  {now.errors:.0f} errors  wrong versions "
            f"{percent(now.mismatch_ratio)}  agreement {percent(now.agreement)}  masked tokens right "
            f"{percent(now.masked_ratio)}  burn {number(now.burn_lower, 1)}"
        )

    def rows(self, now: LiveFigures) -> Iterator[tuple[str, str, str]]:
        """Everything that is watched."""
        for name, value in self._values(now):
            yield name, value, ""
        yield "page", "agreement with the reference" if now.page else "none", "bold red" if now.page else ""
        yield "sidecar is behind", f"{now.lag_seconds:.1f} s", ""

    def _values(self, now: LiveFigures) -> Iterator[tuple[str, str]]:
        fast, alike = target_of("latency-p95"), target_of("reference-agreement")
        yield "requests", f"{now.requests:,.0f} ({self.rate():.0f}/s)"
        yield "errors", f"{now.errors:,.0f}"
        yield "within 200 ms", f"{percent(now.fast_ratio)} (target: {percent(fast)})"
        yield "on wrong versions", percent(now.mismatch_ratio)
        yield "replayed to the reference", f"{now.replayed:,.0f}"
        yield "agreement with it", f"{percent(now.agreement)} (target: {percent(alike)})"
        yield "rank-biased overlap", number(now.overlap)
        yield "divergence", "-" if now.divergence is None else f"{number(now.divergence)} nats"
        yield "masked tokens right", percent(now.masked_ratio)
        above = f"(a page above {PAGE_BURN:.0f} in both)"
        yield "burn in the hour, at least", f"{number(now.burn_lower, 1)} {above}"
        yield "burn in its last 5 minutes", f"{number(now.burn, 1)} {above}"


def number(value: float | None, digits: int = 2) -> str:
    """A number for people."""
    return "-" if value is None else f"{value:.{digits}f}"
