"""The live demo, start to end: other weights are served under the right names, and only answers show it.

Nothing is acted: a masked language model is served by `mlmon serve`, its texts are mirrored, `mlmon shadow`
sends them to a second server of the same model, and every number on the screen is scraped from the sidecar
that counts both. The page is the alert that ships for it, evaluated on the sidecar's gauges as a Prometheus
evaluates it; the way to a phone is left out.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console

from mlmon.demo.live_figures import ALERT, PAGE_BURN, target_of
from mlmon.demo.live_screen import LiveScreen, number
from mlmon.demo.live_stage import REPORT, ROUNDED, TIME_SCALE, LiveStage
from mlmon.demo.live_weights import BITS
from mlmon.demo.processes import demo_folder, ended_in_order, free_port
from mlmon.demo.screen import percent
from mlmon.errors import MissingExtraError

if TYPE_CHECKING:
    from mlmon.demo.live_figures import LiveFigures
    from mlmon.demo.live_stage import ModelServer
    from mlmon.demo.story import Options
    from mlmon.shadow.report import WindowReport

__all__ = ["LiveOutcome", "require_model_server", "run_live_demo"]

_PACKAGES = ("torch", "transformers", "fastapi", "uvicorn")
#: How long the swap may take to be found, and the page to close.
_FIND_SECONDS, _CLOSE_SECONDS = 60.0, 60.0
#: Least agreement of the same weights: numbers differ in the last bits between batches.
_SAME = 0.97
_SLO = "reference-agreement"
_HOUR = f"{3600 / TIME_SCALE:.0f} s"
#: What can be done with the folder of a demo.
_NEXT = (
    ("history show", "every window, kept as Parquet"),
    ("explore -c mlmon.toml", "the same in a browser; needs the extra: explorer"),
)
#: Measures of the evaluator's report, and what they are called here.
_SHOWN = {
    "agreement": "same first answer",
    "rank_biased_overlap": "rank-biased overlap",
    "kl_divergence": "divergence, nats",
}


class LiveOutcome(NamedTuple):
    """What was seen.

    Attributes:
        healthy: the scrape after the stretch without a change.
        early: pages until then.
        wrong: the scrape when the page came, or was given up on.
        found: seconds from the swap to the page; None: there was none in time.
        closed: seconds from the repair to its end; None: not repaired, or not in time.
        last: the last scrape.
        failed: requests that were not answered 200.
    """

    healthy: LiveFigures
    early: int
    wrong: LiveFigures
    found: float | None
    closed: float | None
    last: LiveFigures
    failed: int

    @property
    def seen(self) -> bool:
        """Whether the swap was paged for by its answers alone, nothing before it, and nothing after it."""
        agreed = (self.healthy.agreement or 0.0, self.last.agreement or 0.0)
        quiet = self.early == 0 and min(agreed) >= _SAME
        declared = {now.mismatch_ratio for now in (self.healthy, self.wrong, self.last)} == {0.0}
        lost = self.failed + self.last.errors + self.last.dead_letters
        return quiet and None not in (self.found, self.closed) and declared and lost == 0


def require_model_server() -> None:
    """Make sure that a masked language model can be served.

    Raises:
        MissingExtraError: a package of the server's is not installed.
    """
    for package in _PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "server")


def run_live_demo(options: Options, console: Console | None = None) -> LiveOutcome:
    """Run the demo.

    Args:
        options: how.
        console: where to show it.

    Raises:
        SourceError: a part did not come up.
        MissingExtraError: what serves the model is not installed.
    """
    require_model_server()
    with ended_in_order(), ExitStack() as stack:
        folder = demo_folder(stack, keep=options.keep)
        screen = LiveScreen(console or Console())
        stage = LiveStage(folder, options.port or free_port(), screen, stack)
        stage.prepare()
        with screen:
            outcome = _tell(stage, options.seconds)
            _sum_up(stage, outcome, keep=options.keep or options.stay)
            if options.stay:
                stage.stay()
        return outcome


def _tell(stage: LiveStage, seconds: float) -> LiveOutcome:
    """The story from the first window on."""
    right, wrong = stage.production, stage.launch(stage.folder / ROUNDED)
    healthy = _healthy(stage, seconds, wrong)
    early = stage.alert.fired
    found, swapped = _swap(stage, wrong)
    closed, last = _repair(stage, right)
    return LiveOutcome(healthy, early, swapped, found, closed, last, stage.traffic.failed)


def _healthy(stage: LiveStage, seconds: float, other: ModelServer) -> LiveFigures:
    """Watch for so long, and until everything has data and the other server is ready."""
    screen = stage.screen
    screen.say("\nTwo servers of the same weights", "bold")
    screen.say(
        "  A sample of production's texts goes to the reference too. "
        f"{100 * target_of(_SLO):.0f} % of the first answers\n"
        "  are to be the same: a page comes when what may differ is surely spent "
        f"{PAGE_BURN:.0f} times as fast\n  as it may over an hour, which takes {_HOUR} here."
    )
    screen.pause()

    def known(now: LiveFigures) -> bool:
        there = None not in (now.agreement, now.mismatch_ratio, now.masked_ratio, now.burn_lower)
        return there and other.ready()

    now = stage.until(known, seconds + 120, seconds)
    pages = "no page" if not stage.alert.fired else f"{stage.alert.fired} FALSE PAGES"
    style = "red" if stage.alert.fired else "green"
    screen.say(f"  => {pages}. Agreement with the reference: {percent(now.agreement)}", style)
    return now


def _swap(stage: LiveStage, other: ModelServer) -> tuple[float | None, LiveFigures]:
    """Ask the server of the other weights, and wait for the page."""
    screen = stage.screen
    screen.say("\nOther weights under the same name", "bold")
    screen.say(
        f"  Production is now a server of an export that kept {BITS} bits of each weight. It claims the\n"
        "  declared version and has the same tokenizer: the version check, which would see other weights\n"
        "  if the registry had their digest, has only names to go by."
    )
    other.wait()
    before, started, begun_us = stage.alert.fired, stage.switch(other), time.time_ns() // 1000
    screen.pause()
    now = stage.until(lambda now: now.page and stage.alert.fired > before, _FIND_SECONDS)
    if not now.page or stage.alert.fired == before:
        screen.say(f"  => NO PAGE in {_FIND_SECONDS:.0f} s", "red")
        return None, now
    seconds = now.at - started
    screen.say(
        f"  => PAGE after {seconds:.1f} s: {ALERT} of {_SLO}, at least {number(now.burn_lower, 1)} times as "
        "fast as it may",
        "red",
    )
    screen.say(
        f"     what else is watched: {now.errors:.0f} errors, {percent(now.fast_ratio)} within 200 ms, "
        f"{percent(now.mismatch_ratio)} on undeclared versions"
    )
    stage.until(lambda _: _newest(stage, begun_us) is not None, _FIND_SECONDS)
    _tell_report(stage, _newest(stage, begun_us))
    return seconds, now


def _repair(stage: LiveStage, right: ModelServer) -> tuple[float | None, LiveFigures]:
    """Go back to the right weights, and wait for the end of the page and for answers that agree."""
    screen = stage.screen
    mended = stage.switch(right)
    screen.say("\n  Production is the server before again, which was kept.")
    screen.pause()

    def over(now: LiveFigures) -> bool:
        return not now.page and (now.agreement or 0.0) >= _SAME and now.mismatch_ratio is not None

    now = stage.until(over, _CLOSE_SECONDS)
    if not over(now):
        still = "the page is STILL OPEN" if now.page else "answers STILL DIFFER"
        screen.say(
            f"  => {still} after {_CLOSE_SECONDS:.0f} s: agreement {percent(now.agreement)}",
            "red",
        )
        return None, now
    closed = now.at - mended
    screen.say(f"  => over after {closed:.1f} s: no page, agreement {percent(now.agreement)}", "green")
    return closed, now


def _newest(stage: LiveStage, since_us: int) -> WindowReport | None:
    """The evaluator's newest report of requests that all came after a moment."""
    return next((one for one in reversed(stage.reports()) if one.start_us >= since_us), None)


def _tell_report(stage: LiveStage, report: WindowReport | None) -> None:
    """What the evaluator says of a window: means with their 95 % intervals."""
    if report is None:
        return
    screen = stage.screen
    screen.say(f"     mlmon shadow, of {report.evaluated} replays in {_seconds(report):.0f} s:")
    for name, shown in _SHOWN.items():
        mean = (report.shares | report.means).get(name)
        if mean is not None:
            between = f"({number(mean.low)} to {number(mean.high)})"
            screen.say(f"       {shown:<22} {number(mean.value)} {between}")
    ours, theirs = (report.masked.get(server) for server in ("production", "reference"))
    if ours is not None and theirs is not None:
        screen.say(
            f"       {'masked tokens right':<22} {percent(ours.accuracy)}, by the reference "
            f"{percent(theirs.accuracy)}, of {ours.tokens}"
        )
    for finding in report.findings:
        screen.say(f"       found: {finding}")


def _seconds(report: WindowReport) -> float:
    return (report.end_us - report.start_us) / 1e6


def _sum_up(stage: LiveStage, outcome: LiveOutcome, *, keep: bool) -> None:
    screen, last = stage.screen, outcome.last
    found = "NOT FOUND" if outcome.found is None else f"found in {outcome.found:.1f} s by its answers alone"
    closed = "NOT OVER" if outcome.closed is None else f"over {outcome.closed:.1f} s after the repair"
    screen.say("\nSummary", "bold")
    screen.say(f"  other weights    {found}; {closed}")
    states = (outcome.healthy, outcome.wrong, last)
    shares = ", ".join(percent(now.agreement) for now in states)
    screen.say(f"  agreement        {shares}: before, wrong, repaired")
    screen.say(
        f"  {stage.traffic.answered:,} requests, {outcome.failed} failed, {last.replayed:,.0f} replayed, "
        f"{last.dead_letters:.0f} dead letters, {outcome.early} false pages"
    )
    if not keep:
        screen.say("  `mlmon demo --live --keep` leaves events, reports and history for a closer look")
        return
    screen.say("\nWhere to look next", "bold")
    screen.say(f"  cd {stage.folder}")
    mlmon = "mlmon" if shutil.which("mlmon") else str(Path(sys.executable).with_name("mlmon"))
    for arguments, what in _NEXT:
        screen.say(f"  {mlmon} {arguments}    # {what}")
    screen.say(f"  cat {REPORT}    # what mlmon shadow found, window by window")
