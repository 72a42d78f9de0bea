"""Where no label is waited for, the burn in event time is the one that a real Prometheus records.

Half a day of requests is counted by the monitors as they arrive, their counters are put into a Prometheus at
one sample a minute, and it evaluates the rules that ship; the same events go through the ledger.

What may differ. The recorded rates look five minutes back, so a window over them is the mean of windows that
end in the last five minutes, or ten where sums over five minutes are added up. So a recorded burn must lie
between the least and the largest burn in event time over the last ten minutes, and 5 % more: rates are
evaluated between two samples, so four minutes of whole events stand for five.
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from burn_kit import MINUTE, SECOND, START, Event, batch_of

sys.path.append(str(Path(__file__).parents[1] / "support"))

from prometheus_kit import PrometheusServer

from mlmon.burn.ledger import Ledger
from mlmon.monitors.base import SeriesKey
from mlmon.monitors.slo import SloConfig, SloMonitor
from mlmon.monitors.traffic import TrafficConfig, TrafficMonitor
from mlmon.windows import Window

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.prometheus,
    pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed"),
]

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "alerts" / "rules" / "slo-availability.yml"
SERIES = SeriesKey("shop", "intent", "1", "stable", "")
MINUTES = 14 * 60
#: An incident of an hour and a half, and moments before, in and after it.
INCIDENT = range(8 * 60, 8 * 60 + 90)
MOMENTS = (7 * 60 + 30, 8 * 60 + 4, 8 * 60 + 50, 8 * 60 + 100, 11 * 60, 13 * 60 + 55)
RECORD = re.compile(r"mlmon_slo:[a-z_]+:[a-z0-9]+")


def minutes() -> Iterator[list[Event]]:
    """More requests by day than by night; errors are all kept, of the others one in four."""
    failed = 0.0
    for minute in range(MINUTES):
        count = round(60 + 30 * math.sin(2 * math.pi * minute / 1440))
        before, failed = failed, failed + count * (0.6 if minute in INCIDENT else 0.15)
        bad = int(failed) - int(before)
        yield [
            Event(
                START + minute * MINUTE + n * 600_000,
                "error" if n < bad else "ok",
                weight=1.0 if n < bad else 4.0,
            )
            for n in range(count)
        ]


def counted() -> tuple[str, list[dict[tuple[str, ...], float]]]:
    """The counters as OpenMetrics at each minute's end, and the gauges of burns then."""
    slo, traffic = SloMonitor(SloConfig()), TrafficMonitor(TrafficConfig())
    ledger = Ledger(slo.judging, 10)
    total = traffic.summary()
    lines: dict[str, list[str]] = {}
    gauges = []
    for minute, events in enumerate(minutes()):
        outcomes, end = slo.summary(), START + (minute + 1) * MINUTE
        batch = batch_of(events)
        outcomes.update(batch)
        total.update(batch)
        ledger.close(Window(end - MINUTE, end), {SERIES: outcomes}, {SERIES: "p"})
        gauges.append({(s.metric.name, *s.labels[2:]): s.value for s in ledger.samples(end)})
        for sample in traffic.collect(SERIES, total):
            if sample.metric.kind == "counter":
                pairs = zip(sample.metric.labels, sample.labels, strict=True)
                labels = ",".join(f'{name}="{value}"' for name, value in pairs)
                line = f"{sample.metric.name}_total{{{labels}}} {sample.value!r} {end // SECOND}"
                lines.setdefault(sample.metric.name, []).append(line)
    families = ["\n".join([f"# TYPE {name} counter", *texts]) for name, texts in lines.items()]
    return "\n".join([*families, "# EOF", ""]), gauges


def levels() -> Iterator[str]:
    """The recording rules in files that need only what an earlier one records."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    left: dict[str, set[str]] = {}
    for group in groups:
        for rule in group["rules"]:
            if "record" in rule:
                left[rule["record"]] = set(RECORD.findall(rule["expr"]))
    while left:
        ready = {name for name, needs in left.items() if not needs & left.keys()}
        assert ready, f"rules that need each other: {left}"
        kept = [
            {**group, "rules": [rule for rule in group["rules"] if rule.get("record") in ready]}
            for group in groups
        ]
        yield yaml.safe_dump({"groups": [group for group in kept if group["rules"]]})
        left = {name: needs for name, needs in left.items() if name not in ready}


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=250
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[tuple[PrometheusServer, list[Any]]]:
    """A Prometheus that holds the counters and all that the rules record, and the gauges by minute."""
    folder = tmp_path
    text, gauges = counted()
    (folder / "counters.txt").write_text(text)
    data = folder / "data"
    promtool("tsdb", "create-blocks-from", "openmetrics", folder / "counters.txt", data)
    first, last = START // SECOND + 60, START // SECOND + MINUTES * 60
    for number, rules in enumerate(levels()):
        path = folder / f"rules{number}.yml"
        path.write_text(rules)
        server = PrometheusServer(folder, "127.0.0.1:1")
        try:
            promtool(
                *("tsdb", "create-blocks-from", "rules", f"--start={first}", f"--end={last}"),
                *(f"--url=http://127.0.0.1:{server.port}", f"--output-dir={folder / 'new'}", path),
            )
        finally:
            server.close()
        for block in (folder / "new").iterdir():
            shutil.move(block, data / block.name)
    server = PrometheusServer(folder, "127.0.0.1:1")
    yield server, gauges
    server.close()


def at_minute(server: PrometheusServer, expression: str, minute: int) -> float:
    moment = START // SECOND + minute * 60
    deadline = time.monotonic() + 60
    while not (results := server.api("query", query=expression, time=str(moment))["result"]):
        assert time.monotonic() < deadline, f"{expression} has no value at minute {minute}"
        time.sleep(0.5)  # blocks that overlap are joined after the start
    (found,) = results
    assert found["metric"]["service"] == "shop"
    return float(found["value"][1])


CASES = (
    ("burn_rate", "burn_rate", ("5m", "30m", "1h", "2h", "6h", "1d", "3d"), 0.05),
    ("burn_rate_lower", "burn_rate_lower", ("1h", "6h"), 0.06),
    ("effective_events", "events", ("1h", "6h", "1d", "3d"), 0.06),
)


# one test, since what it starts from takes seconds
@pytest.mark.timeout(300)
def test_the_burn_in_event_time_is_the_recorded_one(
    recorded: tuple[PrometheusServer, list[dict[tuple[str, ...], float]]],
) -> None:
    server, gauges = recorded

    def compare(key: tuple[str, ...], record: str, tolerance: float) -> list[float]:
        """The values compared."""
        for minute in MOMENTS:
            got = at_minute(server, record, minute)
            near = [gauges[at - 1][key] for at in range(minute - 10, minute + 1)]
            low, high = (pick(near) for pick in (min, max))
            low, high = low - tolerance * abs(low), high + tolerance * abs(high)
            assert low <= got <= high, f"{record} at minute {minute}: {got} not within {low} and {high}"
        return [gauges[minute - 1][key] for minute in MOMENTS]

    for metric, record, windows, tolerance in CASES:
        seen = []
        for window in windows:
            key = (f"mlmon_slo_{metric}", "availability", window)
            seen += compare(key, f"mlmon_slo:{record}:{window}", tolerance)
        assert max(seen) > 3 * min(seen), "nothing moved, so nothing was compared"
    compare(("mlmon_slo_budget_remaining_ratio", "availability"), "mlmon_slo:budget_remaining:ratio", 0.05)
