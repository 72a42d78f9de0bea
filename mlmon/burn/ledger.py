"""The ledger of burns: outcomes by request time for as long as any window asks, over restarts and moves.

Per partition and (service, model), since what a partition carried moves with it. A closed window's outcomes
are added to the partition that they were found in and its changed chunks go into the transaction that closes
the window, so an outcome counts once whatever is killed when. What is shown is the sum over the partitions
that are held.

Pure: no clock of its own; windows end where the watermark says.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from mlmon.burn.part import PREFIX, GroupKey, Part, read_address
from mlmon.burn.plan import plans_of
from mlmon.burn.show import figures
from mlmon.catalog import slo as catalog
from mlmon.monitors.base import Reading, Sample
from mlmon.monitors.slo_judge import merge_cells
from mlmon.windows import NEVER

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from mlmon.burn.show import Figure
    from mlmon.monitors.base import SeriesKey
    from mlmon.monitors.slo_judge import Cells
    from mlmon.monitors.slo_objectives import Judging
    from mlmon.monitors.slo_summary import SloSummary
    from mlmon.windows import Window

__all__ = ["Ledger"]

#: Deployments whose answers nobody sees.
_UNSEEN = "shadow"


class Ledger:
    """Keeps burns.

    Args:
        judging: the objectives.
        max_groups: most (service, model) that are kept; of those beyond it nothing is.
    """

    def __init__(self, judging: Judging, max_groups: int) -> None:
        self._plans = plans_of(judging)
        self._by_name = {plan.objective.name: plan for plan in self._plans}
        self._max_groups = max_groups
        self._parts: dict[str, dict[GroupKey, Part]] = {}
        self._spent: defaultdict[str, list[bytes]] = defaultdict(list)
        self._watermark_us = NEVER
        self._left_out: set[GroupKey] = set()
        self._refused: set[GroupKey] = set()
        self._figures: list[Figure] | None = None
        self._ends: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self._groups())

    def _groups(self) -> dict[GroupKey, list[Part]]:
        groups: dict[GroupKey, list[Part]] = {}
        for parts in self._parts.values():
            for key, part in parts.items():
                groups.setdefault(key, []).append(part)
        return groups

    # Windows

    def close(
        self, window: Window, summaries: Mapping[SeriesKey, SloSummary], homes: Mapping[SeriesKey, str]
    ) -> None:
        """Take in a closed window.

        Args:
            window: the window.
            summaries: outcomes of its series; they are not changed.
            homes: the partition that each series was found in.
        """
        brought: dict[tuple[str, GroupKey], Cells] = {}
        for series, summary in summaries.items():
            if series.deployment != _UNSEEN and len(summary.cells.keys):
                place = homes[series], GroupKey(series.service, series.model)
                held = brought.get(place)
                brought[place] = summary.cells if held is None else merge_cells(held, summary.cells)
        self._left_out = set(self._refused)
        for (home, key), cells in brought.items():
            if self._has_room(key):
                self._parts.setdefault(home, {}).setdefault(key, Part(self._plans)).add(cells)
            else:
                self._left_out.add(key)
        self._watermark_us = max(self._watermark_us, window.end_us)
        for parts in self._parts.values():
            for part in parts.values():
                part.expire(self._watermark_us)
        self._figures = None

    def readings(self, window: Window) -> list[Reading]:
        """How the budgets of all groups burn, for the history of the newest closed window."""
        return [Reading(f.metric, f.labels, f.value, window, f.n, f.n_eff) for f in self._said()]

    def _has_room(self, key: GroupKey) -> bool:
        if key in self._refused:
            return False
        return any(key in parts for parts in self._parts.values()) or len(self) < self._max_groups

    def _said(self) -> list[Figure]:
        ends = tuple(plan.end(self._watermark_us) for plan in self._plans)
        if self._figures is None or ends != self._ends:
            self._figures, self._ends = figures(self._groups(), self._plans, self._watermark_us), ends
        return self._figures

    def samples(self, watermark_us: int) -> tuple[Sample, ...]:
        """How all budgets burn at a watermark, which goes on while no window closes."""
        self._watermark_us = max(self._watermark_us, watermark_us)
        said = [] if self._watermark_us == NEVER else self._said()
        return (
            *(Sample(figure.metric, figure.labels, figure.value) for figure in said),
            Sample(catalog.GROUPS, (), float(len(self))),
            Sample(catalog.GROUPS_LEFT_OUT, (), float(len(self._left_out))),
        )

    # State

    def load(self, partition: str, records: Mapping[bytes, bytes]) -> None:
        """Take over a partition's part.

        Groups beyond the bound stay where they are, for a sidecar that has room.

        Raises:
            IncompatibleStateError: a record is damaged, or of a newer form.
        """
        parts = self._parts[partition] = {}
        for key, value in records.items():
            if not key.startswith(PREFIX):
                continue
            address = read_address(key)
            group = GroupKey(address.service, address.model)
            plan = self._by_name.get(address.objective)
            if not self._has_room(group):
                self._refused.add(group)
            elif plan is None or not parts.setdefault(group, Part(self._plans)).restore(address, plan, value):
                self._spent[partition].append(key)
        self._left_out |= self._refused
        self._figures = None

    def retain(self, partitions: Collection[str]) -> None:
        """Drop the parts of all partitions but these."""
        for name in [name for name in self._parts if name not in partitions]:
            del self._parts[name]
            self._spent.pop(name, None)
        if not partitions:
            self._refused.clear()
        self._figures = None

    def changes(self, partition: str) -> tuple[dict[bytes, bytes], list[bytes]]:
        """Records of a partition to write and to delete with its next commit; each is said once."""
        puts: dict[bytes, bytes] = {}
        deletes = self._spent.pop(partition, [])
        parts = self._parts.get(partition, {})
        for key, part in list(parts.items()):
            for record, value in part.changes(*key):
                if value is None:
                    deletes.append(record)
                else:
                    puts[record] = value
            if part.empty:
                del parts[key]
        return puts, deletes
