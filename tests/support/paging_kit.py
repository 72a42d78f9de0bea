"""From metrics to pagers: a real Prometheus and Alertmanager with what `mlmon render` makes, faster.

A minute is a second long: the rules, windows and waiting times are the shipped ones, each a sixtieth as long
(`SCALE`), and so are limits on ages. `Pagers` says what people were told. The past is written into
Prometheus' storage before it starts, so that windows of days are as long as they say and a ticket does not
fire before its page.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from prometheus_kit import PrometheusServer, binary

_ALERTS = Path(__file__).parents[1] / "alerts"
if str(_ALERTS) not in sys.path:
    sys.path.insert(0, str(_ALERTS))

from alertmanager_kit import AlertmanagerServer, Notifications, program  # noqa: E402 - found by the line above

from mlmon.config.reader import read_toml  # noqa: E402
from mlmon.slo import load_specs  # noqa: E402
from mlmon.slo.alertmanager import render_alertmanager  # noqa: E402
from mlmon.slo.alertmanager_receivers import Receiver, Webhook  # noqa: E402
from mlmon.slo.model import Method, Threshold  # noqa: E402
from mlmon.slo.render import RenderConfig  # noqa: E402
from mlmon.slo.render_rules import rule_files  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Self

    from mlmon.slo.model import Objective, Specs

ROOT = Path(__file__).resolve().parents[2]
RUNBOOKS = ROOT / "alerts" / "runbooks"
#: A minute is a second.
SCALE = 60.0
#: Seconds, scaled: between evaluations of the slow tier, and without news before nothing more is expected.
STEP, QUIET = 300 / SCALE, 400 / SCALE
#: Generous: a loaded machine with two cores.
PATIENCE = 60.0
PAGED, TICKETS = ("ml-oncall", "platform-sre"), "product-owner"


class Group(NamedTuple):
    """What makes alerts one notification."""

    service: str
    root_cause: str


class Told(NamedTuple):
    """One notification.

    Attributes:
        key: Alertmanager's name of the group, by which PagerDuty and the like tell incidents apart.
        group: what it is about.
        firing: labels of its alerts that fire.
        ended: names of those that ended, with when, Unix seconds.
        runbooks: addresses of the runbooks of all of them, those that fire first.
    """

    key: str
    group: Group
    firing: list[dict[str, str]]
    ended: list[tuple[str, float]]
    runbooks: list[str]


class Pagers:
    """What each receiver was told."""

    def __init__(self, notifications: Notifications) -> None:
        self._notifications = notifications

    def told(self, receiver: str) -> list[Told]:
        """Notifications to a receiver, in order."""
        return [_told(one.body) for one in self._notifications.at(f"/{receiver}")]

    def groups(self, receiver: str) -> list[Group]:
        """Incidents that a receiver was told of; see `incidents`."""
        return incidents(self.told(receiver))

    def text(self) -> str:
        """Everything, for the message of a failed assertion."""
        lines = []
        for receiver in (*PAGED, TICKETS):
            for one in self.told(receiver):
                names = [f"{a['alertname']}({a.get('slo')},{a.get('root_cause')})" for a in one.firing]
                over = [name for name, _ in one.ended]
                lines.append(f"{receiver}: {'/'.join(one.group)}: firing {names}, ended {over}")
        return "\n".join(lines)


def incidents(told: Iterable[Told]) -> list[Group]:
    """What fires in some notifications to one receiver: one entry for each incident, oldest first.

    What follows under the same key is the same incident told again. What comes under another key is another
    one, even where it is about the same: its group is then there twice.
    """
    return list({one.key: one.group for one in told if one.firing}.values())


def _told(body: dict[str, Any]) -> Told:
    alerts = sorted(body["alerts"], key=lambda alert: alert["status"] != "firing")
    labels = body["groupLabels"]
    return Told(
        body["groupKey"],
        Group(labels.get("service", ""), labels.get("root_cause", "")),
        [alert["labels"] for alert in alerts if alert["status"] == "firing"],
        [
            (alert["labels"]["alertname"], _seconds(alert["endsAt"]))
            for alert in alerts
            if alert["status"] != "firing"
        ],
        [alert["annotations"].get("runbook_url", "") for alert in alerts],
    )


class Watch:
    """Prometheus and Alertmanager over some sidecars, with rules and routes as they are shipped.

    Args:
        folder: for everything that is written.
        targets: host and port of the sidecars, one job.
        past: lines of OpenMetrics of what happened before.
        ready: gives a series for each target once there may be rules.
        routes: changes the text of alertmanager.yml.
        rules: changes the text of each rule file.
    """

    def __init__(
        self,
        folder: Path,
        targets: Iterable[str],
        past: Callable[[Specs, float], Iterator[str]] | None = None,
        ready: str = "up == 1",
        routes: Callable[[str], str] = lambda text: text,
        rules: Callable[[str], str] = lambda text: text,
    ) -> None:
        binary()
        program("prometheus-alertmanager")
        self._folder = folder
        self._targets = list(targets)
        self._past, self._ready, self._routes, self._rules = past, ready, routes, rules
        self._stack = ExitStack()
        self.pagers: Pagers
        self.alertmanager: AlertmanagerServer
        self.prometheus: _Prometheus

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self) -> None:
        config = shipped()
        specs = load_specs([ROOT / "alerts" / "slos"])
        specs = replace(specs, objectives=tuple(map(_scaled, specs.objectives)))
        place = self._folder / "rules"
        place.mkdir(parents=True)
        for name, text in rule_files(specs, config.rules, config.health).items():
            (place / Path(name).name).write_text(self._rules(text))
        notifications = Notifications()
        self._stack.callback(notifications.close)
        self.pagers = Pagers(notifications)
        routes = self._routes(_notify(config, notifications.url))
        self.alertmanager = AlertmanagerServer(self._folder / "alertmanager", routes)
        self._stack.callback(self.alertmanager.close)
        if self._past is not None:
            _backfill(self._folder, self._past(specs, time.time()))
        directory = self._folder / "prometheus"
        self.prometheus = _Prometheus(directory, self._targets, self.alertmanager.url)
        self._stack.callback(self.prometheus.close)
        self.wait(lambda: len(self.prometheus.query(self._ready)) == len(self._targets), self._not_ready)
        self.prometheus.reload({"rule_files": [f"{place}/*.yml"]})
        self.wait(lambda: self.prometheus.api("rules")["groups"], lambda: "the rules are not loaded")

    def _not_ready(self) -> str:
        return f"{self._ready} is not all of {self._targets}"

    def firing(self, **labels: str) -> set[str]:
        """Names of the alerts with these labels that fire in Prometheus now."""
        wanted = ",".join(f"{name}={json.dumps(value)}" for name, value in labels.items())
        found = self.prometheus.query(f'ALERTS{{alertstate="firing",{wanted}}}')
        return {series["alertname"] for series, _ in found}

    def wait_firing(self, *names: str, **labels: str) -> None:
        """Wait until all these alerts fire in Prometheus, told or not."""
        missing: set[str] = set()

        def reached() -> bool:
            missing.clear()
            missing.update(set(names) - self.firing(**labels))
            return not missing

        self.wait(reached, lambda: f"{sorted(missing)} of {labels} do not fire")

    def wait_series(self, expression: str, since: float = 0.0) -> None:
        """Wait until a query gives something that is newer than a moment, Unix seconds."""
        newer = f"timestamp({expression}) > {since}"
        self.wait(lambda: self.prometheus.query(newer), lambda: f"nothing new from {expression}")

    def wait_told(self, receiver: str, *groups: Group) -> None:
        """Wait until a receiver was told of all these groups."""
        wanted = set(groups)
        self.wait(
            lambda: wanted <= set(self.pagers.groups(receiver)),
            lambda: f"{wanted - set(self.pagers.groups(receiver))} not told to {receiver}",
        )

    def wait(self, what: Callable[[], Any], wanting: Callable[[], str]) -> None:
        """Wait for a condition. When it does not come, the message says what is wanting and what was told."""
        deadline = time.monotonic() + PATIENCE
        while not what():
            assert time.monotonic() < deadline, f"{wanting()} in {PATIENCE} s\n{self.pagers.text()}"
            time.sleep(0.1)

    def settle(self) -> None:
        """Wait until a quiet time has passed by Prometheus' own clock: every rule was evaluated after it."""
        until = time.time() + QUIET

        def last() -> float:
            groups = self.prometheus.api("rules")["groups"]
            return min(_seconds(group["lastEvaluation"]) for group in groups)

        self.wait(lambda: last() > until, lambda: "the rules are not evaluated any more")


class _Prometheus(PrometheusServer):
    """One that scrapes once a second, knows an Alertmanager, and has no rules yet.

    With rules from the start it could find its targets absent for the two seconds that page. It looks for
    targets and Alertmanager at once, since for either it takes its time: five seconds.
    """

    def __init__(self, directory: Path, targets: list[str], alertmanager: str) -> None:
        self._config = directory / "prometheus.yml"
        self._alertmanager = alertmanager.removeprefix("http://")
        job = {
            "static_configs": [{"targets": targets}],
            "scrape_interval": "1s",
            "scrape_timeout": "1s",
        }
        super().__init__(directory, targets[0], job)

    def _wait_ready(self) -> None:
        super()._wait_ready()
        targets = [self._alertmanager]
        self.reload({"alerting": {"alertmanagers": [{"static_configs": [{"targets": targets}]}]}})
        self.wait_for(lambda: self.api("alertmanagers")["activeAlertmanagers"], PATIENCE)

    def reload(self, more: dict[str, Any]) -> None:
        """Put something into its configuration, and let it read that."""
        config = json.loads(self._config.read_text())
        self._config.write_text(json.dumps(config | more))
        self._process.send_signal(signal.SIGHUP)


class Sidecar:
    """A process of `mlmon run` on a port of its own, which it keeps when it is started again.

    Args:
        folder: for its configuration and log.
        config: its configuration but for the port.
        first: Python that is run before, to shorten what cannot be configured.
    """

    def __init__(self, folder: Path, config: str, first: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._first = first
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.target = f"127.0.0.1:{probe.getsockname()[1]}"
        port = self.target.rpartition(":")[2]
        self._config, self._log = folder / "mlmon.toml", folder / "mlmon.log"
        self._config.write_text(f"{config}\n[http]\nport = {port}\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start; it answers later."""
        source = f"{self._first}\nfrom mlmon.cli import main\nmain()"
        command = [sys.executable, "-c", source, "run", "--config", str(self._config)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        assert self._process.poll() is None, self.log()
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Let it commit and leave; what does not is killed."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def log(self) -> str:
        """The end of what it wrote."""
        return self._log.read_text(errors="replace")[-4000:]


def shipped() -> RenderConfig:
    """alerts/config.toml, with everything that lasts a sixtieth as long."""
    path = ROOT / "alerts" / "config.toml"
    config = read_toml(path.read_text(encoding="utf-8"), RenderConfig, str(path))
    health, notify = config.health, config.notify
    return RenderConfig(
        rules=msgspec.structs.replace(config.rules, time_scale=SCALE),
        health=msgspec.structs.replace(
            health,
            lag_seconds=health.lag_seconds / SCALE,
            watermark_age_seconds=health.watermark_age_seconds / SCALE,
            checkpoint_age_seconds=health.checkpoint_age_seconds / SCALE,
        ),
        notify=msgspec.structs.replace(
            notify,
            group_wait_seconds=notify.group_wait_seconds / SCALE,
            group_interval_seconds=notify.group_interval_seconds / SCALE,
            page_repeat_seconds=notify.page_repeat_seconds / SCALE,
            ticket_repeat_seconds=notify.ticket_repeat_seconds / SCALE,
        ),
    )


def runbook(url: str) -> Path:
    """The file that an alert's address means."""
    pattern = re.escape(shipped().rules.runbook_url).replace(r"\{alert\}", "([A-Za-z0-9]+)")
    found = re.fullmatch(pattern, url)
    assert found, url
    return RUNBOOKS / f"{found[1]}.md"


def _notify(config: RenderConfig, url: str) -> str:
    """alertmanager.yml with a webhook of its own for each receiver."""
    fields = {name.replace("-", "_"): f"{url}/{name}" for name in (*PAGED, TICKETS)}
    receivers = {field: Receiver(webhook=(Webhook(address),)) for field, address in fields.items()}
    return render_alertmanager(msgspec.structs.replace(config.notify, **receivers))


def _scaled(objective: Objective) -> Objective:
    """An age is a limit on time too: that of the watermark shrinks with the clock."""
    if objective.method is not Method.TIMESLICES or not isinstance(objective.sli, Threshold):
        return objective
    assert "_age_seconds" in objective.sli.expression.text, objective.sli
    sli = replace(objective.sli, limit=objective.sli.limit / SCALE)
    return replace(objective, versions=(replace(objective.current, sli=sli),))


def _backfill(folder: Path, lines: Iterable[str]) -> None:
    """Write samples into the storage that Prometheus will open."""
    text = folder / "past.txt"
    text.write_text("\n".join([*lines, "# EOF", ""]))
    data = folder / "prometheus" / "data"
    data.mkdir(parents=True)
    promtool = shutil.which("promtool")
    assert promtool, "promtool comes with Prometheus: apt-get install prometheus"
    command = [promtool, "tsdb", "create-blocks-from", "openmetrics", str(text), str(data)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def _seconds(moment: str) -> float:
    """RFC 3339 with nanoseconds, in Unix seconds; 0 for Go's zero time."""
    if moment.startswith("0001"):
        return 0.0
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", moment)).timestamp()
