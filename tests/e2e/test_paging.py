"""From an event to a pager: four services go wrong and two stay well under one sidecar; who is told what?

Emitter, spool, `mlmon run`, Prometheus with the rendered rules, Alertmanager with the rendered routes: all
real, with a minute a second long (`paging_kit`). What is asserted is what people hear: notifications to each
receiver's webhook. A group (service and root cause) is one incident, however often it is told.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

import pytest
from paging_kit import PAGED, SCALE, TICKETS, Group, Sidecar, Watch, incidents, runbook
from paging_traffic import (
    MODEL,
    Service,
    Traffic,
    baseline,
    every,
    made,
    past,
    registry,
    wrong_labels,
    wrong_tokenizer,
    yesterday,
)

from mlmon.attach import Emitter, LabelConfig, LabelSender, SpoolSink
from mlmon.attach.limits import EmitterConfig
from mlmon.sources.spool_writer import SpoolWriterConfig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from paging_kit import Told

    from mlmon.events.event import Event

pytestmark = [pytest.mark.prometheus, pytest.mark.slow, pytest.mark.timeout(300)]

FAILING, CONFUSED, STALE, GRADED = "failing", "confused", "stale", "graded"
QUIET, BUSY = "quiet", "busy"
ERRORS, TOKENIZER, VERSION = Group(FAILING, "errors"), Group(CONFUSED, "tokenizer"), Group(STALE, "version")
ACCURACY, PIPELINE = Group(GRADED, "accuracy"), Group("mlmon", "pipeline")
#: Objectives that every service here has data for.
OBJECTIVES = ("availability", "latency-p95", "unknown-tokens", "version-correctness")
TICKETED = ("MlmonErrorBudgetBurnDay", "MlmonErrorBudgetBurnSteady")
BURNS = tuple(f"MlmonErrorBudgetBurn{speed}" for speed in ("Fast", "Slow", "Day", "Steady"))
#: A page goes on for so long at least after its data ended, scaled; burns for longer.
KEPT_SECONDS = 600 / SCALE

CONFIG = """
[source.spool]
directory = "{folder}/spool"
[checkpoint.sqlite]
path = "{folder}/checkpoint.sqlite"
[dead_letters]
directory = "{folder}/letters"
[history]
enabled = false
[registry]
versions_file = "{folder}/versions.toml"
[loop]
checkpoint_interval_seconds = 0.3
[windows]
size_seconds = 1
allowed_lateness_seconds = 0
idle_timeout_seconds = 2
[baseline]
files = ["{folder}/quiet.baseline.safetensors"]
[drift]
min_events = 50
[monitors.slo]
time_scale = {scale}
[monitors.traffic]
latency_buckets_seconds = [0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0]
"""


def services() -> list[Service]:
    """Three that will go wrong; one that was wrong yesterday; one with three requests a minute of which one
    fails; one that fails half as often as its budget allows."""
    failing = ["error", "timeout", "error", "ok", "error"] * 400
    old = ["6" if index % 3 == 0 else "7" for index in range(2000)]
    once = ["error" if index == 40 else "ok" for index in range(2000)]
    half = every(2000, "error")
    kept = [1.0 if status == "error" else 4.0 for status in half]
    return [
        Service(FAILING, 60, made(FAILING, 1), made(FAILING, 1, status=failing)),
        Service(CONFUSED, 100, made(CONFUSED, 2), wrong_tokenizer(CONFUSED, 3)),
        Service(STALE, 30, made(STALE, 4), made(STALE, 4, model_version=old)),
        Service(GRADED, 5, made(GRADED, 7), []),
        Service(QUIET, 3, made(QUIET, 5, status=once), []),
        Service(BUSY, 250, made(BUSY, 6, status=half, sampling_weight=kept), []),
    ]


class World(NamedTuple):
    """What runs, and what each receiver was told until all was told and it was quiet again."""

    sidecar: Sidecar
    watch: Watch
    told: dict[str, list[Told]]

    def groups(self, receiver: str, service: str = "") -> list[Group]:
        """Incidents that a receiver was told of, of one service or all."""
        return [group for group in incidents(self.told[receiver]) if service in ("", group.service)]


class Running(NamedTuple):
    """Six services in good health."""

    sidecar: Sidecar
    watch: Watch
    traffic: Traffic
    graded: list[Event]
    labels: LabelSender


def start(stack: ExitStack, folder: Path) -> Running:
    """Start everything, and wait until Prometheus sees the services."""
    watched = services()
    registry(folder / "versions.toml", {service.name: "7" for service in watched})
    covered = [(service.name, version) for service in watched for version in ("6", "7")]
    baseline(folder / "quiet.baseline.safetensors", covered)
    sidecar = Sidecar(folder, CONFIG.format(folder=folder, scale=SCALE))
    stack.callback(sidecar.close)
    sink = SpoolSink(SpoolWriterConfig(directory=str(folder / "spool")))
    emitter = Emitter(sink, EmitterConfig(batch_age_seconds=0.2))
    stack.callback(emitter.close, 10.0)
    # one request stands for a hundred, so a label for each of them is no more than 1 % of what was answered
    graded = yesterday(GRADED, 10, weight=100.0)
    assert sum(map(emitter.emit, graded)) == len(graded)
    assert emitter.flush(10.0)
    traffic = Traffic(watched, emitter.emit)
    stack.callback(traffic.stop)
    traffic.start()
    sidecar.start()
    # yesterday has been read
    ready = f"mlmon_watermark_age_seconds < {180 / SCALE}"
    watch = stack.enter_context(Watch(folder, [sidecar.target], past(watched), ready))
    since = time.time()
    for service in watched:
        for slo in OBJECTIVES:
            watch.wait_series(f'mlmon_slo:total:rate5m{{service="{service.name}",slo="{slo}"}}', since)
    labels = LabelSender(emitter, LabelConfig(service=GRADED, model_name=MODEL))
    return Running(sidecar, watch, traffic, graded, labels)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """All goes wrong at once, and everything that follows fires in Prometheus before one looks."""
    with ExitStack() as stack:
        running = start(stack, tmp_path_factory.mktemp("paging"))
        watch = running.watch
        running.traffic.spoil(FAILING, CONFUSED, STALE)
        assert wrong_labels(running.labels, running.graded) > 500
        watch.wait_firing(*BURNS, service=FAILING, slo="availability")
        watch.wait_firing("MlmonVersionMismatch", *TICKETED, service=STALE)
        found = ("MlmonVersionMismatch", "MlmonUnknownTokenJump", "MlmonDriftPage")
        watch.wait_firing(*found, service=CONFUSED)
        critical = ("MlmonErrorBudgetBurnCritical", "MlmonErrorBudgetBurnSlow", *TICKETED)
        watch.wait_firing(*critical, service=GRADED, slo="task-accuracy", severity="ticket")
        for receiver in PAGED:
            watch.wait_told(receiver, ERRORS, TOKENIZER, VERSION)
        watch.wait_told(TICKETS, ACCURACY)
        watch.settle()
        yield World(running.sidecar, watch, {name: watch.pagers.told(name) for name in (*PAGED, TICKETS)})


@pytest.mark.parametrize(
    ("group", "labels"),
    [
        (ERRORS, {"alertname": "MlmonErrorBudgetBurnFast", "slo": "availability", "team": "platform"}),
        (TOKENIZER, {"alertname": "MlmonVersionMismatch", "slo": "none", "team": "ml"}),
        (VERSION, {"alertname": "MlmonVersionMismatch", "slo": "none", "team": "ml"}),
    ],
    ids=["errors", "wrong-tokenizer", "old-version"],
)
def test_one_fault_is_one_page_that_names_it(world: World, group: Group, labels: dict[str, str]) -> None:
    for receiver in PAGED:
        assert world.groups(receiver, group.service) == [group], world.watch.pagers.text()
        pages = [one for one in world.told[receiver] if one.group == group]
        # the last one says what it came to; symptoms that were there first are in those before
        (alert,) = pages[-1].firing
        named = {"severity": "page", "service": group.service, "root_cause": group.root_cause}
        assert alert | labels | named == alert
        for one in pages:
            assert one.ended == []
            assert [runbook(url).name for url in one.runbooks] == [f"{a['alertname']}.md" for a in one.firing]
            assert all(runbook(url).is_file() for url in one.runbooks)
    assert world.groups(TICKETS, group.service) == []


def test_a_late_batch_of_wrong_labels_is_one_ticket_while_few_are_labelled(world: World) -> None:
    """So few labels may not stand for the rest: what would page is a ticket, and all of it is one."""
    ask = world.watch.prometheus.query
    ((_, burn),) = ask(f'mlmon_slo:burn_rate_lower:1h{{service="{GRADED}",slo="task-accuracy"}}')
    ((_, coverage),) = ask(f'mlmon_slo_label_coverage_ratio{{service="{GRADED}",slo="task-accuracy"}}')
    assert burn > 3
    assert 0 < coverage < 0.02
    assert world.groups(TICKETS) == [ACCURACY], world.watch.pagers.text()
    for one in world.told[TICKETS]:
        labels = {"severity": "ticket", "slo": "task-accuracy", "team": "ml", **one.group._asdict()}
        assert all(alert | labels == alert for alert in one.firing)
        assert one.ended == []
        assert all(runbook(url).is_file() for url in one.runbooks)
    for receiver in PAGED:
        assert world.groups(receiver, GRADED) == []


def test_health_is_told_to_nobody(world: World) -> None:
    """Neither at three requests a minute, one of which failed, nor at fifteen thousand."""
    ask = world.watch.prometheus.query
    for service, fewest in ((QUIET, 20), (BUSY, 5000)):
        ((_, events),) = ask(f'mlmon_slo:events:1h{{service="{service}",slo="availability"}}')
        ((_, bad),) = ask(f'sum(mlmon_sampled_requests_total{{service="{service}",status="error"}})')
        assert events >= fewest, "too little traffic to say anything"
        assert bad >= 1, "nothing failed, so nothing could have been told"
        assert ask(f'mlmon_pager_threshold{{service="{service}"}}'), "nobody watched for drift"
        assert world.watch.firing(service=service) == set()
    told = world.watch.pagers.text()
    for receiver in PAGED:
        assert sorted(world.groups(receiver)) == sorted([ERRORS, TOKENIZER, VERSION]), told
    assert world.groups(TICKETS) == [ACCURACY], told


def test_a_dead_sidecar_is_one_page_and_ends_no_other(world: World) -> None:
    """Killed, told, started again: what went on before goes on, and nobody is told anything else."""
    sidecar, watch, before = world
    killed = time.time()
    sidecar.kill()
    for receiver in PAGED:
        watch.wait_told(receiver, PIPELINE)
    sidecar.start()
    watch.wait_series("up == 1", time.time())
    watch.settle()
    told = watch.pagers.text()
    for receiver in PAGED:
        now = watch.pagers.told(receiver)
        assert sorted(watch.pagers.groups(receiver)) == sorted([ERRORS, TOKENIZER, VERSION, PIPELINE]), told
        (down,) = next(one.firing for one in now if one.group == PIPELINE)
        labels = {"alertname": "MlmonSidecarDown", "severity": "page", "slo": "none", "team": "platform"}
        assert down | labels == down
        for one in now[len(before[receiver]) :]:
            assert all(runbook(url).is_file() for url in one.runbooks)
            if one.group != PIPELINE:
                assert [end for end in one.ended if end[1] < killed + KEPT_SECONDS] == [], told
    # a page mutes its tickets for as long as it goes on
    over = {one.group for one in watch.pagers.told(PAGED[0]) if one.ended}
    assert set(watch.pagers.groups(TICKETS)) - {ACCURACY} <= over, told
