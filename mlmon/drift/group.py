"""What is remembered of one (service, model) between windows: evidence, the open page, events that wait.

A series with few events is judged only when enough of them have come together, so what its windows brought is
kept until then. All of it is one record of the checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from mlmon.drift.pager import Pager
from mlmon.errors import IncompatibleStateError
from mlmon.stats.pack import pack, unpack
from mlmon.stats.sums import FieldSums
from mlmon.windows import NEVER

__all__ = ["Group", "GroupKey", "Pool", "Unit"]

_FORM = 1


class GroupKey(NamedTuple):
    """What one budget is kept for."""

    service: str
    model: str


class Unit(NamedTuple):
    """A series within its group."""

    version: str
    deployment: str
    segment: str


@dataclass(slots=True)
class Pool:
    """Events of a series that wait to be judged: sums by "monitor/field", from which window on.

    `digests` are those of the parameters by monitor: sums made with others cannot be added.
    """

    start_us: int
    fields: dict[str, FieldSums]
    digests: dict[str, str]

    @property
    def events(self) -> int:
        """Events of the field that most events carry."""
        return max((sums.n for sums in self.fields.values()), default=0)

    def merge(self, other: Pool) -> None:
        """Add what another window brought. Of a monitor whose parameters changed only the newer sums stay."""
        for name, sums in other.fields.items():
            monitor = name.split("/", 1)[0]
            if name in self.fields and self.digests.get(monitor) == other.digests.get(monitor):
                self.fields[name].merge(sums)
            else:
                self.fields[name] = sums.copy()
        self.digests.update(other.digests)


@dataclass(slots=True)
class Group:
    """State of one (service, model).

    Memory: some 100 bytes a detector with evidence, and the sums of series that wait.

    Attributes:
        judged_us: end of the newest window taken in.
        pager: its evidence.
        pools: what waits, by series.
        seen: end of the newest window of each series, µs.
    """

    judged_us: int = NEVER
    pager: Pager = field(default_factory=Pager)
    pools: dict[Unit, Pool] = field(default_factory=dict)
    seen: dict[Unit, int] = field(default_factory=dict)

    def expire(self, before_us: int) -> None:
        """Forget series that were last seen before this event time."""
        for unit in [unit for unit, last in self.seen.items() if last < before_us]:
            del self.seen[unit]
            self.pools.pop(unit, None)
            self.pager.forget(*unit)

    def to_bytes(self) -> bytes:
        """The record of the checkpoint."""
        pools = [
            [*unit, pool.start_us, {name: sums.state() for name, sums in pool.fields.items()}, pool.digests]
            for unit, pool in self.pools.items()
        ]
        seen = [[*unit, last] for unit, last in self.seen.items()]
        return pack([_FORM, self.judged_us, self.pager.state(), pools, seen])

    @staticmethod
    def from_bytes(data: bytes) -> Group:
        """The group that `to_bytes` stored.

        Raises:
            IncompatibleStateError: it is damaged or of another form.
        """
        form, *rest = unpack(data)
        if form != _FORM:
            raise IncompatibleStateError(f"stored evidence has form {form}, expected {_FORM}")
        judged_us, pager, pools, seen = rest
        group = Group(judged_us, Pager.restored(pager))
        for version, deployment, segment, start_us, fields, digests in pools:
            sums = {name: FieldSums.restored(state, len(state[1])) for name, state in fields.items()}
            group.pools[Unit(version, deployment, segment)] = Pool(start_us, sums, digests)
        for version, deployment, segment, last in seen:
            group.seen[Unit(version, deployment, segment)] = last
        return group
