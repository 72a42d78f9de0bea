"""Scenarios for the alerts beside the objectives, written by hand: what fires each, and what must not.

`_x` of a value is held, `_c` counts. Every counter's scenario has a reset in it, since none may fire by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mlmon.slo.promtest import Check, Scenario, counter, gauge

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mlmon.slo.health import HealthSettings

__all__ = ["STEP", "pipeline_scenarios", "service_scenarios"]

#: Seconds between samples and evaluations.
STEP = 60
_WHERE = 'instance="a:9477"'
_WHO = 'service="checkout",model="encoder"'
_SERIES = f'{_WHO},version="1",deployment="primary",segment="all"'
_NAN = float("nan")


class _Case(NamedTuple):
    name: str
    alert: str
    minutes: int
    series: Mapping[str, str]
    firing: tuple[Mapping[str, str], ...] = ()


def _held(value: float, minutes: int, *more: tuple[int, float | None]) -> str:
    return gauge([(minutes + 1, value), *more])


def _counts(per_minute: float, minutes: int) -> str:
    """A counter that is reset in the middle."""
    half = minutes // 2
    return counter([(half, per_minute), (1, _NAN), (minutes - half - 1, per_minute)])


def _scenarios(cases: Iterator[_Case]) -> list[Scenario]:
    return [
        Scenario(
            f"{case.alert}: {case.name}",
            STEP,
            case.series,
            [Check(case.alert, case.minutes * 60, case.firing)],
        )
        for case in cases
    ]


# --- mlmon itself


def pipeline_scenarios(health: HealthSettings) -> list[Scenario]:
    """Of `pipeline.yml`."""
    return _scenarios(_pipeline(health))


def _own(severity: str, team: str, cause: str = "pipeline") -> tuple[dict[str, str]]:
    return ({"severity": severity, "service": "mlmon", "slo": "none", "root_cause": cause, "team": team},)


def _pipeline(health: HealthSettings) -> Iterator[_Case]:
    yield from _dead(health)
    page, ticket = _own("page", health.team), _own("ticket", health.team)
    for alert, metric, limit in (
        ("MlmonPipelineLagging", f'mlmon_consumer_lag_seconds{{{_WHERE},partition="0"}}', health.lag_seconds),
        ("MlmonWatermarkStuck", f"mlmon_watermark_age_seconds{{{_WHERE}}}", health.watermark_age_seconds),
        (
            "MlmonCheckpointFailing",
            f"mlmon_checkpoint_age_seconds{{{_WHERE}}}",
            health.checkpoint_age_seconds,
        ),
    ):
        yield _Case("fires above its limit", alert, 15, {metric: _held(1.2 * limit, 15)}, page)
        yield _Case("silent below its limit", alert, 15, {metric: _held(0.9 * limit, 15)})
        yield _Case("silent for a moment's peak", alert, 15, {metric: f"0+0x13 {2 * limit:g} 0"})
        dies = {metric: _held(1.2 * limit, 15, (10, None))}
        yield _Case("goes on firing when the sidecar dies", alert, 22, dies, page)
    yield from _rising(page, ticket)
    yield from _shares(health, ticket)


def _dead(health: HealthSettings) -> Iterator[_Case]:
    page, ticket = _own("page", health.team), _own("ticket", health.team)
    one, two = (f'up{{job="{health.job}",instance="{name}:9477"}}' for name in "ab")
    down, replica = "MlmonSidecarDown", "MlmonSidecarReplicaDown"
    yield _Case("fires when the only one is down", down, 6, {one: "1 1 0+0x8"}, page)
    yield _Case("fires when none is known any more", down, 20, {one: "1 1 1 _x30"}, page)
    yield _Case("silent while one of two is up", down, 10, {one: "0+0x10", two: "1+0x10"})
    yield _Case("silent for one failed scrape", down, 4, {one: "1 1 1 0 1 1"})
    yield _Case("fires for the one of two", replica, 10, {one: "0+0x10", two: "1+0x10"}, ticket)
    yield _Case("silent when all are up", replica, 10, {one: "1+0x10", two: "1+0x10"})
    yield _Case("silent when all are down", replica, 10, {one: "0+0x10", two: "0+0x10"})


def _rising(page: tuple[dict[str, str]], ticket: tuple[dict[str, str]]) -> Iterator[_Case]:
    """Counters that must not rise."""
    version = ({**ticket[0], "root_cause": "version"},)
    for alert, series, firing in (
        ("MlmonSourceFailing", f"mlmon_source_errors_total{{{_WHERE}}}", page),
        ("MlmonCheckpointFailing", f'mlmon_checkpoint_failures_total{{{_WHERE},kind="error"}}', page),
        ("MlmonHistoryFailing", f"mlmon_history_failures_total{{{_WHERE}}}", ticket),
        ("MlmonEventsLost", f'mlmon_lost_records_total{{{_WHERE},partition="0"}}', ticket),
        ("MlmonLabelOverflow", f'mlmon_label_overflow_total{{{_WHERE},kind="series"}}', ticket),
        ("MlmonRegistryRefused", f'mlmon_registry_reloads_total{{{_WHERE},outcome="refused"}}', version),
    ):
        yield _Case("fires while it rises", alert, 40, {series: _counts(2, 40)}, firing)
        still = counter([(20, 0.0), (1, _NAN), (5, None), (14, 0.0)])
        yield _Case("silent while it stands, through a reset and a gap", alert, 40, {series: still})
        had = "17+0x19 _x5 17+0x15"
        yield _Case("silent for what happened long ago", alert, 40, {series: had})
    fenced = f'mlmon_checkpoint_failures_total{{{_WHERE},kind="fenced"}}'
    yield _Case("silent for rebalances", "MlmonCheckpointFailing", 40, {fenced: _counts(2, 40)})
    split = f"mlmon_split_series{{{_WHERE}}}"
    yield _Case("fires when a series is split", "MlmonSplitSeries", 30, {split: _held(1, 30)}, ticket)
    yield _Case("silent when none is", "MlmonSplitSeries", 30, {split: _held(0, 30)})


def _shares(health: HealthSettings, ticket: tuple[dict[str, str]]) -> Iterator[_Case]:
    events = f'mlmon_events_total{{{_WHERE},partition="0"}}'
    for alert, name, limit in (
        ("MlmonDeadLetters", "dead_letters", health.dead_letter_ratio),
        ("MlmonEventsDropped", "dropped_events", health.dropped_ratio),
    ):
        refused = f"mlmon_{name}_total{{{_WHERE}}}"
        for title, share, firing in (("fires above its share", 1.5, ticket), ("silent below it", 0.7, ())):
            series = {events: _counts(1000, 80), refused: _counts(1000 * limit * share, 80)}
            yield _Case(title, alert, 80, series, firing)
        alone = {refused: _counts(5, 80)}
        yield _Case("fires when nothing else comes", alert, 80, alone, ticket)
        yield _Case("silent when nothing comes", alert, 80, {events: _counts(0, 80), refused: _counts(0, 80)})


# --- services


def service_scenarios(health: HealthSettings) -> list[Scenario]:
    """Of `services.yml`."""
    return _scenarios(_services(health))


def _theirs(severity: str, cause: str, team: str = "ml", **more: str) -> tuple[dict[str, str]]:
    return (
        {
            "severity": severity,
            "service": "checkout",
            "model": "encoder",
            "slo": "none",
            "root_cause": cause,
            "team": team,
            **more,
        },
    )


def _services(health: HealthSettings) -> Iterator[_Case]:
    yield from _version()
    yield from _tokens(health)
    yield from _drift(health)
    yield from _training()
    yield from _latency(health)
    yield from _memory(health)


def _version() -> Iterator[_Case]:
    alert, page = "MlmonVersionMismatch", _theirs("page", "version")
    series = f"mlmon_sampled_version_mismatched_requests_total{{{_SERIES}}}"
    yield _Case("fires while requests go on differing", alert, 20, {series: _counts(1, 20)}, page)
    yield _Case("silent when none differs, through a reset", alert, 20, {series: _counts(0, 20)})
    yield _Case("silent for one stray", alert, 20, {series: "0+0x10 1+0x10"})
    stray = {series: "0+0x10 1+0x10"}
    yield _Case("silent for one stray at once", alert, 14, stray)
    shadow = series.replace("primary", "shadow")
    yield _Case("silent for a shadow deployment", alert, 20, {shadow: _counts(1, 20)})


def _tokens(health: HealthSettings) -> Iterator[_Case]:
    alert, page = "MlmonUnknownTokenJump", _theirs("page", "tokenizer")
    names = [f"mlmon_{name}_total{{{_SERIES}}}" for name in ("unknown_tokens", "tokens", "sampled_tokens")]
    calm, loud = 180, 30
    minutes = calm + loud

    def series(before: float, after: float, tokens: float) -> dict[str, str]:
        unknown = counter([(calm, before * tokens), (1, _NAN), (loud - 1, after * tokens)])
        return {names[0]: unknown, **dict.fromkeys(names[1:], counter([(minutes, tokens)]))}

    many, few = 1000.0, health.minimum_tokens / 30
    high = max(1.5 * health.unknown_token_factor * 0.01, 0.01 + 2 * health.unknown_token_rise)
    yield _Case("fires when they jump", alert, minutes, series(0.01, high, many), page)
    yield _Case("silent when they double", alert, minutes, series(0.01, 0.02, many))
    tiny = health.unknown_token_rise
    yield _Case("silent for a large factor of little", alert, minutes, series(tiny / 20, tiny / 2, many))
    yield _Case("silent for few tokens", alert, minutes, series(0.01, high, few))
    shown = series(high, high, many)
    yield _Case("silent without a day before", alert, 40, {n: _counts(1000, 40) for n in shown})


def _drift(health: HealthSettings) -> Iterator[_Case]:
    alarm, evidence, threshold = (f"mlmon_pager_{n}{{{_WHO}}}" for n in ("alarm", "evidence", "threshold"))
    cause = (
        f'mlmon_pager_cause{{{_WHO},version="1",segment="all",cause="tokenizer",field="tokenizer/unknown"}}'
    )
    alert = "MlmonDriftPage"
    found = {alarm: _held(1, 10), cause: _held(1, 10)}
    yield _Case("fires and names the cause", alert, 5, found, _theirs("page", "tokenizer"))
    yield _Case("fires without a cause", alert, 5, {alarm: _held(1, 10)}, _theirs("page", "unknown"))
    yield _Case("silent while no page is due", alert, 5, {alarm: _held(0, 10)})
    twice = {**found, **{name.replace("{", '{instance="b",'): values for name, values in found.items()}}
    yield _Case("fires once for two sidecars", alert, 5, twice, _theirs("page", "tokenizer"))
    near, share = "MlmonDriftNear", health.drift_near_share
    for title, value, firing in (
        ("fires near the threshold", 1.2 * share, _theirs("ticket", "drift")),
        ("silent far from it", 0.8 * share, ()),
    ):
        series = {evidence: _held(1000 * value, 10), threshold: _held(1000, 10), alarm: _held(0, 10)}
        yield _Case(title, near, 10, series, firing)
    over = {evidence: _held(2000, 10), threshold: _held(1000, 10), alarm: _held(1, 10)}
    yield _Case("silent when the page is out", near, 10, over)
    missing = "MlmonDriftReferenceMissing"
    fields = (
        'mlmon_drift_fields{service="checkout",model="encoder",version="2",deployment="primary",segment="",'
    )
    lacking = {f'{fields}monitor="features",state="insufficient_reference"}}': _held(3, 90)}
    yield _Case("fires when fields lack one", missing, 90, lacking, _theirs("ticket", "baseline"))
    for title, state, value in (
        ("all are compared", "insufficient_reference", 0),
        ("data are few", "insufficient_data", 3),
    ):
        series = {f'{fields}monitor="features",state="{state}"}}': _held(value, 90)}
        yield _Case(f"silent when {title}", missing, 90, series)


def _training() -> Iterator[_Case]:
    alert, ticket = "MlmonTrainingFailed", _theirs("ticket", "training")
    series = f"mlmon_training_failed{{{_WHO}}}"
    yield _Case("fires when it failed", alert, 10, {series: _held(1, 15)}, ticket)
    twice = {f'mlmon_training_failed{{instance="{name}",{_WHO}}}': _held(1, 15) for name in "ab"}
    yield _Case("fires once for two sidecars", alert, 10, twice, ticket)
    yield _Case("silent when it succeeded", alert, 10, {series: _held(0, 15)})
    yield _Case("silent for one that was repeated at once", alert, 15, {series: "1+0x3 0+0x12"})


def _latency(health: HealthSettings) -> Iterator[_Case]:
    alert = "MlmonLatencyP99High"
    bucket = f'mlmon_request_latency_seconds_bucket{{{_SERIES},part="total",le='
    count = f'mlmon_sampled_request_latency_seconds_count{{{_SERIES},part="total"}}'
    limit, minutes = health.latency_p99_seconds, 40

    def series(slow: float, sampled: float) -> dict[str, str]:
        return {
            f'{bucket}"{limit:g}"}}': _counts(1000 * (1 - slow), minutes),
            f'{bucket}"{2 * limit:g}"}}': _counts(1000, minutes),
            f'{bucket}"+Inf"}}': _counts(1000, minutes),
            count: _counts(sampled, minutes),
        }

    ticket = _theirs("ticket", "latency", health.team)
    yield _Case("fires when two in a hundred are slow", alert, minutes, series(0.02, 1000), ticket)
    yield _Case("silent when one in two hundred is", alert, minutes, series(0.005, 1000))
    yield _Case("silent for few requests", alert, minutes, series(0.02, health.latency_minimum_requests / 20))
    yield _Case("silent for an idle service", alert, minutes, {n: _counts(0, minutes) for n in series(0, 0)})


def _memory(health: HealthSettings) -> Iterator[_Case]:
    alert, limit = "MlmonGpuMemoryNearFull", health.gpu_memory_ratio
    used, total = (f"mlmon_gpu_memory_{name}_bytes{{{_SERIES}}}" for name in ("used_last", "total"))
    ours = _theirs("ticket", "memory", health.team)
    theirs = ({name: value for name, value in ours[0].items() if name != "model"},)
    for title, share, firing in (
        ("fires when it is", (1 + limit) / 2, ours),
        ("silent when it is not", limit - 0.05, ()),
    ):
        series = {used: _held(8e10 * share, 20), total: _held(8e10, 20)}
        yield _Case(title, alert, 20, series, firing)
    watched = {f'mlmon_requests_total{{{_SERIES},status="ok"}}': _counts(10, 70)}
    dcgm = {
        f'DCGM_FI_DEV_FB_{name}{{exported_container="checkout",gpu="0"}}': _held(value, 20)
        for name, value in (("USED", 99.0), ("FREE", 1.0))
    }
    yield _Case("fires by the exporter of the GPU", alert, 20, {**watched, **dcgm}, theirs)
    yield _Case("silent for what is not watched", alert, 20, dcgm)
    alert, page = "MlmonOomRestarts", ({**theirs[0], "severity": "page"},)
    pod = 'namespace="x",pod="checkout-1",container="checkout"'
    restarts = {f"kube_pod_container_status_restarts_total{{{pod}}}": "0+0x20 1+0x10 2+0x10 3+0x28"}
    reason = f"kube_pod_container_status_last_terminated_reason{{{pod},reason="
    oom = {f'{reason}"OOMKilled"}}': _held(1, 70)}
    error = {f'{reason}"Error"}}': _held(1, 70)}
    yield _Case("fires when it was killed for memory", alert, 70, {**watched, **restarts, **oom}, page)
    yield _Case("silent when it ended for another reason", alert, 70, {**watched, **restarts, **error})
    yield _Case("silent for what is not watched", alert, 70, {**restarts, **oom})
    yield _Case("silent without the exporter", alert, 70, watched)
