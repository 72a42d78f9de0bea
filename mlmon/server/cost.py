"""What the device costs: by the clock, and by the time it worked.

    allocated = price * (time since start)             what is paid
    used      = price * (time the device worked)       what serving took of it, by lane

Cost per inference is either of them over `mlmon_server_requests_total`, over the same time.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from mlmon.catalog import server as catalog
from mlmon.server.work.jobs import Lane

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.metrics_core import Metric as Family

    from mlmon.server.meters import Meters

__all__ = ["CostCollector"]

_HOUR_SECONDS = 3600.0


class CostCollector(Collector):
    """The cost counters, from the device's busy seconds.

    Args:
        price_per_hour: of the device, in any currency.
        meters: where the busy seconds are.
        clock: monotonic seconds.
    """

    def __init__(
        self, price_per_hour: float, meters: Meters, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._price = price_per_hour / _HOUR_SECONDS
        self._meters, self._clock = meters, clock
        self._since = clock()

    def collect(self) -> Iterator[Family]:
        """Both counters."""
        allocated, used = catalog.ALLOCATED_COST, catalog.USED_COST
        wall = self._clock() - self._since
        yield CounterMetricFamily(allocated.name, allocated.help, value=self._price * wall)
        family = CounterMetricFamily(used.name, used.help, labels=used.labels)
        for lane in Lane:
            family.add_metric([lane], self._price * self._meters.busy_seconds(lane))
        yield family

    def describe(self) -> Iterator[Family]:
        """Nothing: there is nothing to say before the first scrape."""
        return iter(())
