"""What NVIDIA's management library says of the GPU that serves: memory, utilisation, energy.

Needs `nvidia-ml-py` and a driver; where either is missing there is simply nothing to say.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from mlmon.catalog import server as catalog

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric as Family

__all__ = ["GpuCollector", "GpuReading", "open_gpu"]

#: A reading is reused for this long: NVML takes up to some milliseconds, and refreshes as seldom.
FRESH_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class GpuReading:
    """The GPU at one moment; what it does not tell is None.

    Attributes:
        memory_used_bytes, memory_total_bytes: of the whole GPU, by whomever.
        utilization_ratio: part of the last sample period in which it worked.
        energy_joules: used since this process looked first.
    """

    memory_used_bytes: float | None = None
    memory_total_bytes: float | None = None
    utilization_ratio: float | None = None
    energy_joules: float | None = None


class GpuCollector(Collector):
    """Reads one GPU, at most once a second; any number of threads may ask.

    Args:
        nvml: the module `pynvml`, initialised.
        handle: of the GPU.
    """

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        self._lock = threading.Lock()
        self._energy_before = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        self._latest = GpuReading()
        self._read_at = float("-inf")

    def _ask(self, function: str) -> Any:
        """What one of NVML's functions says; None where this GPU does not support it."""
        try:
            return getattr(self._nvml, function)(self._handle)
        except self._nvml.NVMLError:
            return None

    def reading(self) -> GpuReading:
        """The GPU now, or up to a second ago."""
        with self._lock:
            now = time.monotonic()
            if now - self._read_at >= FRESH_SECONDS:
                self._latest, self._read_at = self._read(), now
            return self._latest

    def _read(self) -> GpuReading:
        memory = self._ask("nvmlDeviceGetMemoryInfo")
        rates = self._ask("nvmlDeviceGetUtilizationRates")
        energy = self._ask("nvmlDeviceGetTotalEnergyConsumption")  # millijoules since the driver was loaded
        known = energy is not None and self._energy_before is not None
        return GpuReading(
            None if memory is None else float(memory.used),
            None if memory is None else float(memory.total),
            None if rates is None else rates.gpu / 100.0,
            (energy - self._energy_before) / 1000.0 if known else None,
        )

    def collect(self) -> Iterator[Family]:
        """The gauges of `mlmon.catalog.server`, those that the GPU tells."""
        reading = self.reading()
        for metric, value in (
            (catalog.GPU_MEMORY, reading.memory_used_bytes),
            (catalog.GPU_MEMORY_TOTAL, reading.memory_total_bytes),
            (catalog.GPU_UTILIZATION, reading.utilization_ratio),
            (catalog.GPU_ENERGY, reading.energy_joules),
        ):
            if value is not None:
                family = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
                yield family(metric.name, metric.help, value=value)

    def describe(self) -> Iterator[Family]:
        """Nothing: registering asks the GPU nothing."""
        return iter(())


def open_gpu(device: str) -> GpuCollector | None:
    """Find the GPU that a model is on.

    Args:
        device: as PyTorch names it, such as `cuda:0`.

    Returns:
        None on another device, without NVIDIA's library or driver, or where it does not know the GPU.
    """
    kind, _, index = device.partition(":")
    if kind != "cuda":
        return None
    try:
        pynvml: Any = importlib.import_module("pynvml")  # it has no types
    except ImportError:
        return None
    with contextlib.suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        return GpuCollector(pynvml, pynvml.nvmlDeviceGetHandleByUUID(_uuid(int(index or 0))))
    return None


def _uuid(index: int) -> str:
    """NVML's name of a GPU that PyTorch numbers: the numbers differ where CUDA_VISIBLE_DEVICES is set."""
    import torch

    return f"GPU-{torch.cuda.get_device_properties(index).uuid}"
