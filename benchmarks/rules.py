"""What the rules cost a real Prometheus, beside the same objectives as plain `rate()` alerts.

    python benchmarks/rules.py                     2 services x 10 objectives, eight minutes
    python benchmarks/rules.py --services 50       50 x 10, half an hour

Four Prometheus run side by side on the same history and scrape the same counters once a minute. One is
without rules; one has the rules as they are rendered (recorded); one plain alerts, which divide two sums of
`rate()` for each burn window, once a minute (plain); one the same with conditions on more than an hour
evaluated every five minutes, as the rendered ones are (spared). Plain alerts have no confidence bound, no
minimum of events, no budget and no series for a dashboard.

promtool makes the history: days of counters, so that the longest burn window is full, and a period of what
the slow rules record, so that the budget is counted over all of it.

Shown is what five minutes cost, with five evaluations of fast rules and one of slow ones: processor time,
less what the Prometheus without rules takes; the time that Prometheus says evaluations took, which other work
on the machine stretches; samples that queries read, which nothing stretches. All must find the burns that
went in.

Further: how long `mlmon render` takes for 500 objectives.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

from _rules_history import (
    PERIOD_DAYS,
    SCRAPE,
    SETTINGS,
    STEM,
    Exporter,
    Size,
    bad,
    blocks,
    counter_lines,
    recorded_lines,
)

from mlmon.cli.render import rendered
from mlmon.slo import load_specs
from mlmon.slo.alerting import objective_groups
from mlmon.slo.model import STANDARD, Counters, Matcher, Method, Objective, Ratio, Selector, Version
from mlmon.slo.promql import Alert, Group, rules_yaml
from mlmon.slo.windows import STEP_SECONDS, is_fast, window_name

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Before anything is measured: rates need two scrapes, recordings two evaluations.
WARM_SECONDS = 150
SLOS = Path(__file__).parents[1] / "alerts/slos"


def objectives(count: int) -> list[Objective]:
    """Objectives over one counter, each over a segment of its own, for all services at once."""
    found = []
    for index in range(count):
        segment = Matcher("segment", "=", f"s{index}")

        def counters(*matchers: Matcher, own: Matcher = segment) -> Counters:
            names = (f"{STEM}_total", "mlmon_sampled_requests_total", f"{STEM}_weight_squared_total")
            return Counters(*(Selector(name, (own, *matchers)) for name in names))

        ratio = Ratio(counters(Matcher("status", "=~", "error|timeout")), "bad", counters())
        found.append(
            Objective(
                name=f"objective-{index}",
                service="all",
                display_name=f"Objective {index}",
                description="",
                window_seconds=PERIOD_DAYS * 86_400,
                method=Method.OCCURRENCES,
                versions=(Version(None, 0.999, ratio),),
                conditions=STANDARD,
                group_by=("service", "model"),
                minimum_events=20,
            )
        )
    return found


def recorded_groups(specs: list[Objective]) -> list[Group]:
    """The rules as they are rendered."""
    return [group for objective in specs for group in objective_groups(objective, SETTINGS)]


def share(objective: Objective, seconds: int) -> str:
    """Share of bad events over a window, read from the counters."""
    sli = objective.current.sli
    assert isinstance(sli, Ratio)
    failed, total = (
        f"sum by (service, model) (rate({selector.over(window_name(seconds))}))"
        for selector in (sli.part.estimated, sli.total.estimated)
    )
    return f"{failed} / {total}"


def plain_groups(specs: list[Objective], *, spared: bool) -> list[Group]:
    """The same burn conditions, each window read from the counters; spared: long ones every five minutes."""
    groups = []
    for objective in specs:
        budget = objective.current.budget
        alerts: dict[int, list[Alert]] = {}
        for condition in objective.conditions:
            windows = (condition.long_seconds, condition.short_seconds)
            alert = Alert(
                f"Plain{condition.name.title()}",
                "\nand\n".join(
                    f"{share(objective, window)} > {condition.threshold * budget!r}" for window in windows
                ),
                {"severity": condition.severity, "slo": objective.name},
                {"summary": "x"},
            )
            slow = spared and not is_fast(condition.long_seconds)
            alerts.setdefault(STEP_SECONDS if slow else SETTINGS.interval_seconds, []).append(alert)
        groups += [
            Group(f"plain-{objective.name}-{interval}", window_name(interval), some)
            for interval, some in alerts.items()
        ]
    return groups


# --- Prometheus


class Cost(NamedTuple):
    """What a Prometheus has spent since it started.

    Attributes:
        cpu: processor time, seconds.
        evaluating: time that evaluations of groups took, seconds.
        written: samples appended to the storage.
    """

    cpu: float
    evaluating: float
    written: float

    def since(self, earlier: Cost) -> Cost:
        """The difference."""
        return Cost(*(now - then for now, then in zip(self, earlier, strict=True)))


class Prometheus:
    """One Prometheus on blocks of its own, with one set of rules."""

    def __init__(self, directory: Path, history: Path, groups: list[Group], target: str) -> None:
        directory.mkdir()
        (directory / "rules.yml").write_text(rules_yaml(groups, "a benchmark"))
        scrape = {"job_name": "counters", "static_configs": [{"targets": [target]}]}
        settings = {
            "global": {"scrape_interval": f"{SCRAPE}s"},
            "rule_files": ["rules.yml"],
            "scrape_configs": [{**scrape, "honor_labels": True}],
        }
        (directory / "prometheus.yml").write_text(json.dumps(settings))  # JSON is YAML
        shutil.copytree(history, directory / "data", copy_function=os.link)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.groups = groups
        with (directory / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={directory / 'prometheus.yml'}",
                    f"--storage.tsdb.path={directory / 'data'}",
                    "--storage.tsdb.retention.time=60d",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                self.get("/-/ready")
            except OSError:
                time.sleep(0.2)
            else:
                return
        raise RuntimeError((directory / "log").read_text()[-2000:])

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as reply:
            return str(reply.read(), "utf-8")

    def ask(self, expression: str) -> dict[str, Any]:
        asked = urlencode({"query": expression, "stats": "all"})
        data: dict[str, Any] = json.loads(self.get(f"/api/v1/query?{asked}"))["data"]
        return data

    def query(self, expression: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask(expression)["result"]
        return found

    def read(self) -> int:
        """Samples that the rules' queries read in five minutes."""
        slow = window_name(STEP_SECONDS)
        often = STEP_SECONDS // SETTINGS.interval_seconds
        return sum(
            (1 if group.interval == slow else often)
            * int(self.ask(rule.expr)["stats"]["samples"]["totalQueryableSamples"])
            for group in self.groups
            for rule in group.rules
        )

    def cost(self) -> Cost:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        own = self.own()
        names = ("rule_group_duration_seconds_sum", "tsdb_head_samples_appended_total")
        return Cost(cpu, *(own[f"prometheus_{name}"] for name in names))

    def own(self) -> dict[str, float]:
        """Its own metrics, summed over labels."""
        found: dict[str, float] = {}
        for line in self.get("/metrics").splitlines():
            if not line.startswith("#"):
                series, _, value = line.rpartition(" ")
                name = series.partition("{")[0]
                found[name] = found.get(name, 0.0) + float(value)
        return found

    def series(self) -> int:
        """That rules have written, now."""
        found = self.query('count({__name__=~"mlmon_slo:.*|ALERTS.*"})')
        return int(found[0]["value"][1]) if found else 0

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def check(server: Prometheus, specs: list[Objective], *, recorded: bool) -> None:
    """It finds the burns that went in, over the longest window and the shortest."""
    failures = server.own()["prometheus_rule_evaluation_failures_total"] if server.groups else 0
    assert failures == 0, f"{failures} evaluations failed"
    for index, objective in enumerate(specs):
        for seconds in (3 * 86_400, STEP_SECONDS):
            expression = f"({share(objective, seconds)}) / {objective.current.budget!r}"
            if recorded:
                expression = f'mlmon_slo:burn_rate:{window_name(seconds)}{{slo="{objective.name}"}}'
            found = server.query(expression)
            assert found, expression
            for one in found:
                failed = bad(int(one["metric"]["service"].rpartition("-")[2]), index)
                wanted = failed / (100.0 + failed) / objective.current.budget
                value = float(one["value"][1])
                assert math.isclose(value, wanted, rel_tol=0.02), (expression, value, wanted)


def compare(folder: Path, size: Size, seconds: float) -> None:
    """Four Prometheus side by side."""
    specs = objectives(size.objectives)
    begun, end = time.monotonic(), int(time.time())
    start = end - int(size.days * 86_400)
    plain_history = blocks(folder, counter_lines(size, start, end))

    def everything() -> Iterator[str]:
        yield from counter_lines(size, start, end)
        yield from recorded_lines(size, end)

    full_history = blocks(folder, everything())
    print(
        f"{size.services} services x {size.objectives} objectives, {size.versions} series of a counter and "
        f"status each; {size.days:g} days of counters, {PERIOD_DAYS} of recordings (made in "
        f"{time.monotonic() - begun:.0f} s)",
        flush=True,
    )
    sets = {
        "none": [],
        "plain": plain_groups(specs, spared=False),
        "spared": plain_groups(specs, spared=True),
        "recorded": recorded_groups(specs),
    }
    with ExitStack() as stack:
        exporter = Exporter(size, start)
        stack.callback(exporter.close)
        servers = {}
        for name, groups in sets.items():
            history = full_history if name == "recorded" else plain_history
            servers[name] = Prometheus(folder / name, history, groups, exporter.target)
            stack.callback(servers[name].close)
        time.sleep(WARM_SECONDS)
        before = {name: server.cost() for name, server in servers.items()}
        time.sleep(seconds)
        spent = {name: server.cost().since(before[name]) for name, server in servers.items()}
        for name, server in servers.items():
            check(server, specs, recorded=name == "recorded")
        show(servers, spent, seconds)


def show(servers: dict[str, Prometheus], spent: dict[str, Cost], seconds: float) -> None:
    """The table, for five minutes."""
    factor = STEP_SECONDS / seconds
    idle = spent.pop("none")
    print("| rules | number | CPU s | evaluating s | samples read | series written | samples written |")
    print("|---|---|---|---|---|---|---|")
    print(f"| none | 0 | {idle.cpu * factor:.2f} | | | | {idle.written * factor:,.0f} |")
    costs = {name: cost.since(idle) for name, cost in spent.items()}
    read = {name: servers[name].read() for name in costs}
    for name, cost in costs.items():
        rules = sum(len(group.rules) for group in servers[name].groups)
        print(
            f"| {name} | {rules:,} | {cost.cpu * factor:.2f} | {cost.evaluating * factor:.2f} "
            f"| {read[name]:,} | {servers[name].series():,} | {cost.written * factor:,.0f} |"
        )
    ours = costs.pop("recorded")
    for name, cost in costs.items():
        print(
            f"{name} beside recorded: CPU {cost.cpu / ours.cpu:.1f}x, evaluating "
            f"{cost.evaluating / ours.evaluating:.1f}x, samples read {read[name] / read['recorded']:.1f}x"
        )


def time_rendering(folder: Path, count: int) -> None:
    """All of `mlmon render`, from this many specs like the shipped one of availability, less its judge."""
    slos = folder / "alerts/slos"
    slos.mkdir(parents=True)
    shutil.copy(SLOS / "services.yaml", slos)
    text = re.sub(" *mlmon.io/judge:.*\n", "", (SLOS / "availability.yaml").read_text())
    for index in range(count):
        named = text.replace("name: availability\n", f"name: availability-{index}\n", 1)
        (slos / f"{index}.yaml").write_text(named)
    begun = time.process_time()
    specs = load_specs([slos])
    loaded = time.process_time()
    files = rendered(folder)
    done = time.process_time()
    assert len(specs.objectives) == count
    size = sum(map(len, files.values())) / 1e6
    print(
        f"mlmon render, {count} objectives: {done - loaded:.1f} s of CPU, {loaded - begun:.1f} of them to "
        f"read the specs; {len(files)} files, {size:.1f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--services", type=int, default=2)
    parser.add_argument("--objectives", type=int, default=10)
    parser.add_argument("--versions", type=int, default=1, help="series of each counter and status")
    parser.add_argument("--days", type=float, default=3.0, help="history of the counters")
    parser.add_argument("--steps", type=int, default=1, help="five minutes each, that are measured")
    parser.add_argument("--render", type=int, default=500, help="objectives to render; 0: none")
    options = parser.parse_args()
    size = Size(options.services, options.objectives, options.versions, options.days)
    with tempfile.TemporaryDirectory() as name:
        if options.render:
            time_rendering(Path(name) / "render", options.render)
        if size.services:
            compare(Path(name), size, options.steps * STEP_SECONDS)


if __name__ == "__main__":
    main()
