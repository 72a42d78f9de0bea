"""The demo, start to end: a service is watched while its traffic, its model and its tokenizer change.

Nothing is acted: every number on the screen is scraped from a real sidecar, which reads the events that a
real service wrote, and judges them by a baseline made of that service's own recorded traffic.
"""

from __future__ import annotations

import shutil
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode

from rich.console import Console

from mlmon.demo.processes import demo_folder, ended_in_order, free_port, require_server
from mlmon.demo.screen import Screen, evidence_text, percent
from mlmon.demo.service import SERVICE
from mlmon.demo.stage import BASELINE, EXPLORER_PORT, Stage
from mlmon.demo.training import CASED, DAMAGED, TOKENIZER, WEIGHTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlmon.demo.figures import Figures

__all__ = ["Found", "Options", "Outcome", "run_demo"]

_TRAVEL = 0.4
#: How long each change may take to be found, and each page to close.
_FIND_SECONDS, _CLOSE_SECONDS = 30.0, 60.0
_TOLD_FIELDS = 3
#: What an incident is compared with: so long before it, of which no more than this before the last one ended.
#: A page closes some healthy windows after the repair.
_BEFORE_SECONDS, _CLOSING_SECONDS = 15.0, 4.0
#: What can be done with the folder of a demo.
_NEXT = (
    (f"baseline show {BASELINE}", "what is judged, and by what"),
    ("history show", "every window, kept as Parquet"),
    ("explore -c mlmon.toml", "from a page to its cause, in a browser; needs the extra: explorer"),
    (f"report drift --baseline {BASELINE} --history history", "a page for people; needs the extra: reports"),
)


class Options(NamedTuple):
    """How the demo is run.

    Attributes:
        seconds: how long nothing changes before the first change.
        port: of /metrics; 0 chooses one.
        stay: go on until Ctrl-C after the story is told.
        keep: leave the folder with spool, baseline, configuration and history.
    """

    seconds: float = 20.0
    port: int = 0
    stay: bool = False
    keep: bool = False


class Change(NamedTuple):
    """Something that goes wrong.

    Attributes:
        name: in the summary.
        text: what was done.
        mended: what undoes it; empty for the last.
        causes: what a page may rightly blame.
    """

    name: str
    text: str
    mended: str
    causes: tuple[str, ...]


class Found(NamedTuple):
    """What became of a change.

    Attributes:
        change: what was done.
        seconds: from the change to the page; None: there was none in time.
        cause: what the page blamed.
        field: the field that carried most of it.
        closed: seconds from the repair to the end of the page; None: not repaired, or not in time.
        figures: the last scrape before the repair.
        between: from the change to the page's end, or to when it was last looked at; seconds since 1970.
    """

    change: Change
    seconds: float | None
    cause: str
    field: str
    closed: float | None
    figures: Figures
    between: tuple[float, float] = (0.0, 0.0)

    @property
    def right(self) -> bool:
        """Whether there was a page with a right cause."""
        return self.seconds is not None and self.cause in self.change.causes


class Outcome(NamedTuple):
    """What was seen.

    Attributes:
        healthy: the scrape after the stretch without a change.
        found: what became of each change: topic, encoder, tokenizer.
        last: the last scrape.
        failed: requests that were not answered 200.
    """

    healthy: Figures
    found: tuple[Found, ...]
    last: Figures
    failed: int

    @property
    def seen(self) -> bool:
        """Whether everything was as it should be: three pages with a right cause, and none before."""
        wrong = self.found[-1].figures
        rose = (wrong.unknown_ratio or 0.0) > 5 * (self.healthy.unknown_ratio or 0.0) + 0.01
        versions = (self.healthy.mismatch_ratio, wrong.mismatch_ratio) == (0.0, 1.0)
        quiet = self.healthy.pages == 0 and self.healthy.evidence is not None
        lost = self.failed + self.last.errors + self.last.dead_letters
        return quiet and all(found.right for found in self.found) and rose and versions and lost == 0


TOPIC = Change(
    "topic shift",
    f"{100 * _TRAVEL:.0f} % of the customers now ask about travel, of which the model knows nothing.",
    "Traffic is of banking alone again.",
    ("embeddings", "features", "predictions"),
)
ENCODER = Change(
    "damaged encoder",
    "The service is redeployed with 20 % noise in the weights of one layer of the encoder.",
    "The service is redeployed with the right weights.",
    ("embeddings",),
)
WRONG_TOKENIZER = Change(
    "wrong tokenizer",
    "The service is redeployed with a tokenizer of the same vocabulary that does not lowercase.",
    "",
    ("version", "tokenizer"),
)


def run_demo(options: Options, console: Console | None = None) -> Outcome:
    """Run the demo.

    Args:
        options: how.
        console: where to show it.

    Raises:
        SourceError: a part did not come up.
        MissingExtraError: FastAPI is not installed.
    """
    require_server()
    with ended_in_order(), ExitStack() as stack:
        folder = demo_folder(stack, keep=options.keep)
        screen = Screen(console or Console())
        stage = Stage(folder, options.port or free_port(), screen, stack)
        stage.prepare()
        stage.watch()
        with screen:
            outcome = _tell(stage, options)
            _sum_up(stage, outcome, options)
            if options.stay:
                stage.stay()
        return outcome


def _tell(stage: Stage, options: Options) -> Outcome:
    """The story from the first window on."""
    screen = stage.screen
    screen.say("\nThe healthy hour, made short", "bold")
    screen.say(
        "  Traffic as it was recorded: no page should come. One false page in 30 days is tolerated, and 30\n"
        "  days have 2,592,000 windows of a second: a page is due when there is so much evidence of a drift."
    )
    screen.pause()
    told = options.seconds

    def known(now: Figures) -> bool:
        return None not in (now.evidence, now.unknown_ratio, now.mismatch_ratio)

    healthy = stage.until(known, told + 60, told)
    pages = "no page" if not healthy.pages else f"{healthy.pages} FALSE PAGES"
    screen.say(
        f"  => {pages}. Evidence of a drift: {evidence_text(healthy)}", "red" if healthy.pages else "green"
    )
    found = [
        _change(stage, TOPIC, lambda: stage.mix(_TRAVEL), repair=lambda: stage.mix(0.0)),
        _change(
            stage,
            ENCODER,
            lambda: stage.deploy(TOKENIZER, DAMAGED),
            repair=lambda: stage.deploy(TOKENIZER, WEIGHTS),
        ),
        _change(
            stage,
            WRONG_TOKENIZER,
            lambda: stage.deploy(CASED, WEIGHTS),
            enough=lambda now: now.mismatch_ratio == 1.0 and (now.unknown_ratio or 0.0) > 0.01,
        ),
    ]
    return Outcome(healthy, tuple(found), found[-1].figures, stage.traffic.failed)


def _change(
    stage: Stage,
    change: Change,
    make: Callable[[], float],
    *,
    repair: Callable[[], float] | None = None,
    enough: Callable[[Figures], bool] = lambda _: True,
) -> Found:
    """Change something, wait for the page, repair it, wait for the page's end."""
    screen = stage.screen
    screen.say(f"\n{change.name.capitalize()}", "bold")
    screen.say(f"  {change.text} Every answer is still 200 OK.")
    before = stage.until(lambda _: True, 1.0).pages
    began, started = time.time(), make()
    screen.pause()
    now = stage.until(lambda now: now.page is not None and now.pages > before, _FIND_SECONDS)
    if now.page is None or now.pages == before:
        screen.say(f"  => NO PAGE in {_FIND_SECONDS:.0f} s", "red")
        if repair is not None:
            repair()
        return Found(change, None, "", "", None, now, (began, time.time()))
    seconds = now.at - started
    page = now.page
    screen.say(f"  => PAGE after {seconds:.1f} s. Cause: {page.cause}; most of it in {page.field}", "red")
    now = stage.until(enough, _FIND_SECONDS)
    _tell_moved(screen, now)
    closed = None
    if repair is not None:
        mended = repair()
        screen.say(f"  {change.mended}")
        screen.pause()
        after = stage.until(lambda now: now.page is None, _CLOSE_SECONDS)
        if after.page is None:
            closed = after.at - mended
            screen.say(f"  => the page closed by itself after {closed:.1f} s", "green")
        else:
            screen.say(f"  => the page is STILL OPEN after {_CLOSE_SECONDS:.0f} s", "red")
    return Found(change, seconds, page.cause, page.field, closed, now, (began, time.time()))


def _tell_moved(screen: Screen, now: Figures) -> None:
    """The fields that carry the page, first those that moved most for what is tolerated of them."""
    moved = [(name, drift) for name, drift in now.drift.items() if drift.carries]
    moved.sort(key=lambda item: -item[1].effect / max(item[1].tolerance, 1e-9))
    for name, drift in moved[:_TOLD_FIELDS]:
        screen.say(f"     {name:<28} {drift.effect:.2f}, tolerated {drift.tolerance:.3f}")
    if now.mismatch_ratio:
        wrong, unknown = percent(now.mismatch_ratio), percent(now.unknown_ratio)
        screen.say(f"     traffic on undeclared versions: {wrong}, unknown tokens: {unknown}")


def _sum_up(stage: Stage, outcome: Outcome, options: Options) -> None:
    screen, last = stage.screen, outcome.last
    screen.say("\nSummary", "bold")
    for found in outcome.found:
        what = "NOT FOUND" if found.seconds is None else f"found in {found.seconds:.1f} s as {found.cause}"
        screen.say(f"  {found.change.name:<16} {what}{f' ({found.field})' if found.field else ''}")
    screen.say(
        f"  {stage.traffic.answered:,} requests, {outcome.failed} failed, {last.dead_letters:.0f} dead "
        f"letters, {outcome.healthy.pages} false pages; {last.detectors or 0:.0f} detectors share a budget "
        "of one false page a month"
    )
    _point_on(stage, outcome, options)


def _point_on(stage: Stage, outcome: Outcome, options: Options) -> None:
    """Where to look next."""
    screen = stage.screen
    if not options.keep and not options.stay:
        screen.say(
            "  `mlmon demo --stay` opens the explorer on all this, at "
            f"http://127.0.0.1:{EXPLORER_PORT}; `--keep` leaves events, baseline and history"
        )
        return
    screen.say("\nWhere to look next", "bold")
    if options.stay:
        screen.say(f"  {stage.url}")
        _explore(stage, outcome)
    mlmon = "mlmon" if shutil.which("mlmon") else str(Path(sys.executable).with_name("mlmon"))
    screen.say(f"  cd {stage.folder}")
    for arguments, what in _NEXT:
        screen.say(f"  {mlmon} {arguments}    # {what}")


def _explore(stage: Stage, outcome: Outcome) -> None:
    """Start the explorer, and say where in it each page leads to its cause."""
    url = stage.explore()
    if url is None:
        stage.screen.say('  pip install "mlmon[explorer]" adds the explorer: from each page to its cause')
        return
    stage.screen.say(f"  {url}    # the explorer; from each page to its cause:")
    last = 0.0
    for found in outcome.found:
        began, ended = found.between
        moments = {"from": max(began - _BEFORE_SECONDS, last - _CLOSING_SECONDS), "to": ended}
        last = ended
        query = urlencode({"service": SERVICE} | {name: _moment(at) for name, at in moments.items()})
        stage.screen.say(f"  {url}/incident?{query}    # {found.change.name}")


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
