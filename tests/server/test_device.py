"""What is told of the device: NVML's figures, cost, and spans."""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Any

import pynvml
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest
from server_kit import configured, read_metrics, run, talking

from mlmon.server import nvml
from mlmon.server.app import build_server
from mlmon.server.cost import CostCollector
from mlmon.server.meters import Meters
from mlmon.server.tracing import Tracing
from mlmon.server.work.jobs import Lane

if TYPE_CHECKING:
    from mlmon.server.model import LoadedModel

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Gpu:
    """NVML's functions for a GPU whose figures a test sets; there is none here that could be asked."""

    NVMLError = pynvml.NVMLError

    def __init__(self) -> None:
        self.memory, self.utilization, self.energy = (3e9, 8e10), 40, 5000
        self.unsupported: set[str] = set()
        self.asked = 0

    def _told(self, name: str, value: Any) -> Any:
        self.asked += 1
        if name in self.unsupported:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return value

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:  # noqa: N802 - NVML's name
        used, total = self.memory
        return self._told("memory", types.SimpleNamespace(used=used, total=total))

    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any:  # noqa: N802 - as above
        return self._told("utilization", types.SimpleNamespace(gpu=self.utilization))

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any) -> Any:  # noqa: N802 - as above
        return self._told("energy", self.energy)


def shown(collector: Any) -> dict[tuple[str, tuple[str, ...]], float]:
    registry = CollectorRegistry()
    registry.register(collector)
    return read_metrics(generate_latest(registry).decode())


def test_a_gpus_figures_are_told_in_base_units(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu()
    collector = nvml.GpuCollector(gpu, "handle")
    gpu.energy += 2500  # millijoules
    seen = shown(collector)
    assert seen == {
        ("mlmon_server_gpu_memory_used_bytes", ()): 3e9,
        ("mlmon_server_gpu_memory_total_bytes", ()): 8e10,
        ("mlmon_server_gpu_utilization_ratio", ()): 0.4,
        ("mlmon_server_gpu_energy_joules_total", ()): 2.5,
    }
    asked = gpu.asked
    assert collector.reading().utilization_ratio == 0.4
    assert gpu.asked == asked, "a fresh reading is used again"
    monkeypatch.setattr(nvml, "FRESH_SECONDS", 0.0)
    gpu.utilization = 90
    assert collector.reading().utilization_ratio == 0.9


def test_what_a_gpu_does_not_tell_is_left_out() -> None:
    gpu = Gpu()
    gpu.unsupported = {"energy", "utilization"}
    assert {name for name, _ in shown(nvml.GpuCollector(gpu, "handle"))} == {
        "mlmon_server_gpu_memory_used_bytes",
        "mlmon_server_gpu_memory_total_bytes",
    }


def test_without_a_gpu_a_library_or_a_driver_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert nvml.open_gpu("cpu") is None
    # the real library: there is no driver on a machine without a GPU
    with pytest.raises(pynvml.NVMLError):
        pynvml.nvmlInit()
    assert nvml.open_gpu("cuda:0") is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml.open_gpu("cuda:0") is None


def test_cost_is_the_price_of_time_as_paid_and_as_used() -> None:
    now = 100.0
    meters = Meters(CollectorRegistry(), ())
    collector = CostCollector(7.2, meters, lambda: now)
    now = 100.0 + 1800.0
    meters.busy.labels(Lane.INTERACTIVE).inc(600.0)
    meters.busy.labels(Lane.SHADOW).inc(60.0)
    seen = shown(collector)
    assert seen["mlmon_server_allocated_cost_total", ()] == pytest.approx(3.6)
    assert seen["mlmon_server_used_cost_total", ("interactive",)] == pytest.approx(1.2)
    assert seen["mlmon_server_used_cost_total", ("shadow",)] == pytest.approx(0.12)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Spans that end, in memory; the provider is not the process's for good."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return exporter


def test_a_request_and_its_parts_become_spans_under_the_callers(
    bert: LoadedModel, spans: InMemorySpanExporter
) -> None:
    server = build_server(bert, configured(name="m", version="v"))

    async def work() -> None:
        async with talking(server) as client:
            body = {"inputs": "the [MASK] sat"}
            await client.post(
                "/fill-mask", json=body, headers={"traceparent": TRACE, "x-mlmon-lane": "shadow"}
            )
            await client.post("/fill-mask", json={"inputs": "no mask"})
            await client.get("/info")

    run(work())
    found = spans.get_finished_spans()
    assert [span.name for span in found] == [
        "tokenize",
        "queue",
        "inference",
        "POST /fill-mask",
        "tokenize",
        "POST /fill-mask",
    ]
    *parts, whole = found[:4]
    assert whole.context.trace_id == int(TRACE.split("-")[1], 16)
    assert whole.parent.span_id == int(TRACE.split("-")[2], 16)
    assert {span.parent.span_id for span in parts} == {whole.context.span_id}
    times = [whole.start_time]
    for span in parts:
        times += [span.start_time, span.end_time]
    assert [*times, whole.end_time] == sorted([*times, whole.end_time]), "one after the other"
    assert {span.instrumentation_scope.name for span in found} == {"mlmon.server"}
    assert dict(whole.attributes) == {
        "mlmon.model": "m",
        "mlmon.version": "v",
        "http.request.method": "POST",
        "http.route": "/fill-mask",
        "http.response.status_code": 200,
        "mlmon.lane": "shadow",
        "mlmon.batch_size": 1,
    }
    assert found[5].attributes["http.response.status_code"] == 422
    assert found[5].parent is None


def test_without_opentelemetry_nothing_is_recorded(
    spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "opentelemetry", None)
        Tracing({}).record("a", [], (0, 1), [("b", 0, 1)], {})
    assert spans.get_finished_spans() == ()
    Tracing({}).record("a", [], (0, 1), [("b", 0, 1)], {})
    assert [span.name for span in spans.get_finished_spans()] == ["b", "a"]
