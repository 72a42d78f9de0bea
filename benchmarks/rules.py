"""What the rules cost a real Prometheus, beside the same objectives as plain `rate()` alerts.

    python benchmarks/rules.py                     2 services x 10 objectives
    python benchmarks/rules.py --services 50       50 x 10, some ten minutes

Blocks with days of counters, and of what the rules would have recorded from them, are made by promtool and
loaded, so that long windows are full. Each set of rules then runs alone, for one evaluation of the slowest
group and one minute more; what is shown is the evaluation time that Prometheus reports for its groups and the
processor time of the process. It scrapes the counters once a minute meanwhile. The plain alerts divide two
sums of `rate()` for each window and have no confidence bound, no minimum of events, no budget.

Further: the time to render 500 objectives.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from mlmon.slo.alerting import objective_groups
from mlmon.slo.health import HealthSettings
from mlmon.slo.model import STANDARD, Counters, Matcher, Method, Objective, Ratio, Selector, Version
from mlmon.slo.promql import Alert, Group, rules_yaml
from mlmon.slo.render_docs import alerts_markdown
from mlmon.slo.render_rules import rule_files
from mlmon.slo.render_tests import rule_tests
from mlmon.slo.windows import STEP_SECONDS, RuleSettings, window_name

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTINGS = RuleSettings()
SCRAPE = 60
STEM = "mlmon_requests"


def objectives(count: int, spread: int = 10) -> list[Objective]:
    """Objectives over one counter, each over a segment of its own, for all services at once."""
    found = []
    for index in range(count):
        segment = Matcher("segment", "=", f"s{index % spread}")

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
                window_seconds=30 * 86_400,
                method=Method.OCCURRENCES,
                versions=(Version(None, 0.999, ratio),),
                conditions=STANDARD,
                group_by=("service", "model"),
                minimum_events=20,
            )
        )
    return found


def ours(objective: Objective) -> list[Group]:
    """The rules as they are rendered."""
    return list(objective_groups(objective, SETTINGS))


def plain_groups(objective: Objective) -> list[Group]:
    """The same burn conditions, each window read from the counters."""
    sli = objective.current.sli
    assert isinstance(sli, Ratio)

    def share(seconds: int) -> str:
        span = window_name(seconds)
        bad, total = (
            f"sum by (service, model) (rate({selector.over(span)}))"
            for selector in (sli.part.estimated, sli.total.estimated)
        )
        return f"{bad} / {total}"

    alerts = [
        Alert(
            f"Plain{condition.name.title()}",
            "\nand\n".join(
                f"{share(window)} > {condition.threshold * objective.current.budget!r}"
                for window in (condition.long_seconds, condition.short_seconds)
            ),
            {"severity": condition.severity, "slo": objective.name},
            {"summary": "x"},
        )
        for condition in objective.conditions
    ]
    return [Group(f"plain-{objective.name}", window_name(SETTINGS.interval_seconds), alerts)]


# --- history


def counters_at(specs: list[Objective], services: int) -> Iterator[tuple[str, str, float]]:
    """Name, labels and increase at each scrape of every counter."""
    for name in (STEM, f"{STEM}_weight_squared"):
        for service in range(services):
            for index in range(len(specs)):
                for status, step in (("ok", 100), ("error", 0.05)):
                    labels = f'{{service="service-{service}",model="m",segment="s{index}",status="{status}"}}'
                    yield name, labels, step


class Exporter:
    """The counters as they go on after the history."""

    def __init__(self, specs: list[Objective], services: int, start: int) -> None:
        counters = list(counters_at(specs, services))

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                count = (time.time() - start) / SCRAPE
                body = "".join(f"{n}_total{labels} {count * step:.6g}\n" for n, labels, step in counters)
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.target = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def write_history(path: Path, specs: list[Objective], services: int, days: float, end: int) -> int:
    """OpenMetrics text: counters at the scrape interval, and what the rules record from them. Samples."""
    start, samples = end - int(days * 86_400), 0
    times = range(start, end, SCRAPE)
    steps = range(start, end, STEP_SECONDS)
    recent = range(end - 7200, end, SCRAPE)
    who = [f'service="service-{index}",model="m"' for index in range(services)]
    with path.open("w") as out:
        written = ""
        for name, labels, step in counters_at(specs, services):
            if name != written:
                out.write(f"# TYPE {name} counter\n")
                written = name
            out.writelines(f"{name}_total{labels} {n * step:.6g} {at}\n" for n, at in enumerate(times))
            samples += len(times)
        for what, value in (("bad", 0.05), ("total", 100.05)):
            for squared in ("", "_weight_squared"):
                for suffix, moments, scale in (("rate5m", recent, 1 / 60), ("increase5m", steps, 5.0)):
                    name = f"mlmon_slo:{what}{squared}:{suffix}"
                    out.write(f"# TYPE {name} gauge\n")
                    for service in who:
                        for objective in specs:
                            labels = f'{{{service},slo="{objective.name}"}}'
                            out.writelines(f"{name}{labels} {value * scale:.6g} {at}\n" for at in moments)
                            samples += len(moments)
        out.write("# EOF\n")
    return samples


# --- Prometheus


class Prometheus:
    """One Prometheus on a copy of the blocks, with one set of rules."""

    def __init__(self, directory: Path, blocks: Path, groups: list[Group], target: str) -> None:
        directory.mkdir()
        (directory / "rules.yml").write_text(rules_yaml(groups, "a benchmark"))
        scrape = {"job_name": "counters", "static_configs": [{"targets": [target]}]}
        settings = {
            "global": {"scrape_interval": f"{SCRAPE}s"},
            "rule_files": ["rules.yml"],
            "scrape_configs": [{**scrape, "honor_labels": True}],
        }
        # JSON is YAML
        (directory / "prometheus.yml").write_text(json.dumps(settings))
        subprocess.run(["cp", "-al", str(blocks), str(directory / "data")], check=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
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
            return reply.read().decode()

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def own(self, name: str) -> float:
        lines = self.get("/metrics").splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    def count(self, selector: str) -> int:
        """Series of a selector now."""
        data = json.loads(self.get(f"/api/v1/query?{urlencode({'query': f'count({selector})'})}"))["data"]
        return int(data["result"][0]["value"][1]) if data["result"] else 0

    def groups(self) -> list[dict[str, float | str]]:
        found: list[dict[str, float | str]] = json.loads(self.get("/api/v1/rules"))["data"]["groups"]
        return found

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)


def measure(name: str, server: Prometheus, groups: list[Group], seconds: float) -> None:
    try:
        begun, cpu = time.monotonic(), server.cpu_seconds()
        time.sleep(seconds)
        spent, cpu = time.monotonic() - begun, server.cpu_seconds() - cpu
        found = server.groups()
        failures = server.own("prometheus_rule_evaluation_failures_total")
        by_interval: dict[float, float] = {}
        for group in found:
            interval = float(group["interval"])
            by_interval[interval] = by_interval.get(interval, 0.0) + float(group["evaluationTime"])
        rules = sum(len(group.rules) for group in groups)
        share = sum(time_ / interval for interval, time_ in by_interval.items())
        cycle = ", ".join(f"{1000 * t:,.0f} ms every {i:.0f} s" for i, t in sorted(by_interval.items()))
        series = server.count('{__name__=~"mlmon_slo:.*|ALERTS.*"}')
        print(
            f"{name}: {rules} rules, one evaluation of all: {cycle}; {100 * share:.2f} % of the time\n"
            f"    processor time {100 * cpu / spent:.1f} % of a core, series written {series:,.0f}, "
            f"failures {failures:.0f}"
        )
    finally:
        server.close()


def time_rendering(count: int) -> None:
    many = objectives(count)
    begun = time.perf_counter()
    files = rule_files(many, SETTINGS, HealthSettings())
    rules_seconds = time.perf_counter() - begun
    begun = time.perf_counter()
    tests = rule_tests(many, SETTINGS, HealthSettings())
    tests_seconds = time.perf_counter() - begun
    begun = time.perf_counter()
    alerts_markdown(many, SETTINGS, HealthSettings())
    docs_seconds = time.perf_counter() - begun
    print(
        f"render {count} objectives: rules {rules_seconds:.2f} s "
        f"({sum(map(len, files.values())) / 1e6:.1f} MB), their tests {tests_seconds:.2f} s "
        f"({sum(map(len, tests.values())) / 1e6:.1f} MB), catalogue {docs_seconds:.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--services", type=int, default=2)
    parser.add_argument("--objectives", type=int, default=10)
    parser.add_argument("--days", type=float, default=3.0, help="of history")
    parser.add_argument("--seconds", type=float, default=STEP_SECONDS + SCRAPE, help="of each measurement")
    parser.add_argument("--render", type=int, default=500, help="objectives to render")
    options = parser.parse_args()

    time_rendering(options.render)
    specs = objectives(options.objectives, options.objectives)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        end = int(time.time())
        begun = time.perf_counter()
        samples = write_history(directory / "history", specs, options.services, options.days, end)
        subprocess.run(
            [
                "promtool",
                "tsdb",
                "create-blocks-from",
                "openmetrics",
                str(directory / "history"),
                str(directory / "blocks"),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        (directory / "history").unlink()
        print(
            f"{options.services} services x {options.objectives} objectives, {options.days:g} days of "
            f"history, {samples:,} samples (made in {time.perf_counter() - begun:.0f} s)"
        )
        exporter = Exporter(specs, options.services, end - int(options.days * 86_400))
        for name, make in (("recorded", ours), ("plain", plain_groups)):
            groups = [group for objective in specs for group in make(objective)]
            server = Prometheus(directory / name, directory / "blocks", groups, exporter.target)
            measure(name, server, groups, options.seconds)
        exporter.close()


if __name__ == "__main__":
    main()
