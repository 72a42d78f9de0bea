"""What the dashboards' queries are asked of: emitter → spool → sidecar → Prometheus, all of them real.

The events have everything an event can have, drift from their baseline, fail now and then and come from a
version that the registry does not expect, so that every panel has something to show.
"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_kit import PrometheusServer, binary
from report_kit import KEY, calibrated, events

from mlmon.app.build import build
from mlmon.attach import Emitter, SpoolSink
from mlmon.attach.limits import EmitterConfig
from mlmon.attach.metrics import EmitterCollector
from mlmon.baseline.file import save_baseline
from mlmon.config import parse_config
from mlmon.events.event import Event
from mlmon.slo import load_specs
from mlmon.slo.health import HealthSettings
from mlmon.slo.render_rules import rule_files
from mlmon.slo.windows import RuleSettings
from mlmon.sources.spool_writer import SpoolWriterConfig

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

_CONFIG = """
[source.spool]
directory = "{folder}/spool"
[checkpoint.sqlite]
path = "{folder}/checkpoint.sqlite"
[dead_letters]
directory = "{folder}/letters"
[history]
directory = "{folder}/history"
[registry]
versions_file = "{folder}/versions.toml"
[series]
segment_by = ["language"]
[loop]
checkpoint_interval_seconds = 0.3
[windows]
size_seconds = 1
allowed_lateness_seconds = 1
idle_timeout_seconds = 2
[http]
port = 0
[baseline]
files = ["{folder}/quiet.baseline.safetensors"]
[drift]
min_events = 50
[monitors.traffic]
latency_buckets_seconds = [0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 5.0]
"""
_VERSIONS = f"""
version = 1
[[expected]]
service = "{KEY.service}"
model = "{KEY.model}"
model_version = "8"
[[training]]
service = "{KEY.service}"
model = "{KEY.model}"
finished = 2026-01-05T04:00:00Z
succeeded = true
"""
#: Events a second, and how many before they repeat.
_RATE, _EVENTS = 400, 3600
#: Time that rates need at least.
_LEAST_SECONDS = 8.0
_GIB = 2.0**30
_SLOS = Path(__file__).parents[2] / "alerts/slos"


class World:
    """Runs while the context lasts; `prometheus` answers.

    Args:
        folder: for everything that is written.

    Attributes:
        at: when everything had been seen, Unix seconds: the moment to ask about.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.at = 0.0
        self._enough = threading.Event()
        self._stack = ExitStack()
        self.prometheus: PrometheusServer

    def __enter__(self) -> Self:
        binary()
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
        save_baseline(calibrated(), str(self.folder / "quiet.baseline.safetensors"))
        (self.folder / "versions.toml").write_text(_VERSIONS)
        running = build(parse_config(_CONFIG.format(folder=self.folder)))
        stop = threading.Event()
        loop = threading.Thread(target=running.run, args=(stop.is_set,))
        loop.start()
        self._stack.callback(loop.join)
        self._stack.callback(stop.set)
        sink = SpoolSink(SpoolWriterConfig(directory=str(self.folder / "spool")))
        emitter = Emitter(sink, EmitterConfig(batch_age_seconds=0.2))
        self._stack.callback(emitter.close, 10.0)
        registry = CollectorRegistry()
        registry.register(EmitterCollector(emitter))
        server, thread = start_http_server(0, "127.0.0.1", registry)
        self._stack.callback(server.server_close)
        self._stack.callback(thread.join)
        self._stack.callback(server.shutdown)
        targets = [f"127.0.0.1:{running.server.port}", f"127.0.0.1:{server.server_port}"]
        job = {"static_configs": [{"targets": targets}]}
        self.prometheus = PrometheusServer(
            self.folder / "prometheus", targets[0], job, (_rules(self.folder),)
        )
        self._stack.callback(self.prometheus.close)
        feeder = threading.Thread(target=self._feed, args=(emitter,))
        feeder.start()
        try:
            self._settle()
        finally:
            self._enough.set()
            feeder.join()

    def _feed(self, emitter: Emitter) -> None:
        """Offer events, each as it happens, until everything has been seen."""
        made = _made(_EVENTS)
        started = time.monotonic()
        for number in count():
            if self._enough.wait(max(0.0, started + number / _RATE - time.monotonic())):
                return
            now = {"event_id": f"{number:x}", "event_time": time.time_ns() // 1000}
            emitter.emit(msgspec.structs.replace(made[number % _EVENTS], **now))

    def _settle(self) -> None:
        """Wait until the pager has spoken, budgets are counted and something burns."""
        started = time.monotonic()
        for sign in (
            "mlmon_pager_alarm == 1",
            "mlmon_pager_cause",
            "mlmon_slo:budget_exhaustion:seconds",
            'ALERTS{alertname="MlmonDriftPage",alertstate="firing"}',
        ):
            self.prometheus.wait_for(partial(self.prometheus.query, sign), 60.0)
        time.sleep(max(0.0, started + _LEAST_SECONDS - time.monotonic()))
        self.at = time.time()

    def ask(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """(labels, value) of each series at the moment that counts."""
        answer = self.prometheus.api("query", query=expression, time=repr(self.at))
        if answer["resultType"] == "scalar":
            return [({}, float(answer["result"][1]))]
        return [(item["metric"], float(item["value"][1])) for item in answer["result"]]


def _rules(folder: Path) -> str:
    """The rules as they are shipped, with every window and duration a hundredth as long."""
    for path, text in rule_files(load_specs([_SLOS]), RuleSettings(time_scale=100), HealthSettings()).items():
        place = folder / "rules" / Path(path).name
        place.parent.mkdir(exist_ok=True)
        place.write_text(text)
    return str(folder / "rules" / "*.yml")


def _made(number: int) -> list[Event]:
    """Moved events with every field."""
    rng = np.random.default_rng(3)
    rows = events(number, 7, moved=True).to_pylist()
    latency = rng.lognormal(-3.0, 0.7, number)
    # 4 in every 100 fail, evenly, so that any stretch of them says so
    hundred = np.array(["ok"] * 24 + ["error"])
    hundred = np.concatenate([hundred, hundred, hundred, np.where(hundred == "error", "timeout", hundred)])
    hundred[[10, 40, 70]] = "client_error"
    status = np.resize(hundred, number)
    extra: dict[str, Any] = {
        "model_digest": ["ab" * 16] * number,
        "tokenizer_version": ["3"] * number,
        "tokenizer_digest": ["cd" * 16] * number,
        "deployment": ["stable"] * number,
        "status": status.tolist(),
        "latency_seconds": latency.tolist(),
        "queue_seconds": (0.2 * latency).tolist(),
        "tokenize_seconds": (0.1 * latency).tolist(),
        "inference_seconds": (0.6 * latency).tolist(),
        "batch_size": rng.integers(1, 9, number).tolist(),
        "gpu_utilization_ratio": rng.uniform(0.5, 0.9, number).tolist(),
        "gpu_memory_used_bytes": (rng.uniform(60, 70, number) * _GIB).tolist(),
        "gpu_memory_total_bytes": [80 * _GIB] * number,
        "characters": rng.integers(40, 120, number).tolist(),
        "continuation_tokens": rng.integers(0, 5, number).tolist(),
        "byte_fallback_tokens": rng.integers(0, 2, number).tolist(),
        "masked_tokens": rng.integers(0, 3, number).tolist(),
        "truncated_tokens": rng.choice([0, 7], number, p=[0.95, 0.05]).tolist(),
        "entropy": rng.gamma(2.0, 0.3, number).tolist(),
        "trace_id": [f"{i + 1:032x}" for i in range(number)],
    }
    columns = {name: iter(values) for name, values in extra.items()}
    made = []
    for row in rows:
        row |= {name: next(values) for name, values in columns.items()}
        row["event_time"] = 0
        row["segments"] = dict(row["segments"])
        row["embedding"] = [float(value) for value in row["embedding"]]
        made.append(msgspec.convert(row, Event))
    return made
