"""What one partition carried of one (service, model), by objective, and the records that keep it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mlmon.burn.table import History
from mlmon.errors import IncompatibleStateError
from mlmon.monitors.slo_judge import split_key
from mlmon.stats.pack import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from mlmon.burn.plan import Plan
    from mlmon.monitors.slo_judge import Cells

__all__ = ["PREFIX", "Address", "GroupKey", "Part", "read_address"]

#: Records of the ledger in a partition's state.
PREFIX = b"b"
_FORM = 1
_OUTCOMES, _REQUESTS = 0, 1
#: Σw in a cell.
_WEIGHT = 1


class GroupKey(NamedTuple):
    """What has a budget of its own."""

    service: str
    model: str


class Address(NamedTuple):
    """Key of a record: a chunk of one objective's outcomes (kind 0) or of the requests beside it (kind 1)."""

    service: str
    model: str
    objective: str
    kind: int
    length: int
    chunk: int

    def to_bytes(self) -> bytes:
        """The key."""
        return PREFIX + pack(list(self))


def read_address(key: bytes) -> Address:
    """The address that a key stands for.

    Raises:
        IncompatibleStateError: it is none.
    """
    try:
        return Address(*unpack(key[len(PREFIX) :]))
    except TypeError:
        raise IncompatibleStateError(f"stored burn has the key {key!r}: expected an address") from None


class Part:
    """Sums of a (service, model), as far as one partition brought them.

    Memory: 40 or 48 bytes a bucket and objective; some 0.2 MB for two objectives without labels over 30 days,
    0.25 MB more for one whose labels come a day late.

    Args:
        plans: of every objective.
    """

    __slots__ = ("_plans", "outcomes", "requests")

    def __init__(self, plans: Sequence[Plan]) -> None:
        self._plans = plans
        self.outcomes: list[History | None] = [None] * len(plans)
        self.requests: list[History | None] = [None] * len(plans)

    @property
    def empty(self) -> bool:
        """Whether nothing is held."""
        return all(history is None or history.empty for history in (*self.outcomes, *self.requests))

    def add(self, cells: Cells) -> None:
        """Add the cells of a closed window."""
        places, tiers, buckets = split_key(cells.keys)
        edges = np.flatnonzero(np.diff(places * 4 + tiers)) + 1
        for rows in np.split(np.arange(len(places)), edges) if len(places) else ():
            place, tier = int(places[rows[0]]), int(tiers[rows[0]])
            if place < len(self._plans):
                width = self._plans[place].width
                self._history(place, _OUTCOMES).add(tier, buckets[rows], cells.sums[rows, :width])
            else:
                self._add_requests(buckets[rows], cells.sums[rows, _WEIGHT : _WEIGHT + 1])

    def _add_requests(self, buckets: NDArray[np.int64], weights: NDArray[np.float64]) -> None:
        """Beside the outcomes of each objective with labels, so that both are cut alike."""
        for plan in self._plans:
            if plan.objective.labelled:
                history = self._history(plan.place, _REQUESTS)
                history.add(0, buckets // plan.tiers.lengths[0], weights)

    def _history(self, place: int, kind: int) -> History:
        held = self.outcomes if kind == _OUTCOMES else self.requests
        history = held[place]
        if history is None:
            plan = self._plans[place]
            history = held[place] = History(plan.tiers, plan.width if kind == _OUTCOMES else 1)
        return history

    def expire(self, watermark_us: int) -> None:
        """Let go of what no window can reach any more."""
        for plan in self._plans:
            for history in (self.outcomes[plan.place], self.requests[plan.place]):
                if history is not None:
                    history.expire(watermark_us // plan.base_us)

    # Records

    def changes(self, service: str, model: str) -> Iterator[tuple[bytes, bytes | None]]:
        """Records that the next commit writes, or with None deletes; each is said once."""
        for plan in self._plans:
            for kind, held in ((_OUTCOMES, self.outcomes), (_REQUESTS, self.requests)):
                history = held[plan.place]
                for table in () if history is None else history.tables:
                    for change in table.changes():
                        address = Address(
                            service, model, plan.objective.name, kind, change.length, change.chunk
                        )
                        value = None
                        if change.rows is not None:
                            value = pack([_FORM, plan.base_us, plan.currency, change.rows, change.sums])
                        yield address.to_bytes(), value

    def restore(self, address: Address, plan: Plan, value: bytes) -> bool:
        """Take over a record; False where it was cut by another clock, and means nothing here.

        Raises:
            IncompatibleStateError: it is damaged or of another form.
        """
        form, base_us, currency, rows, sums = unpack(value)
        if form != _FORM:
            raise IncompatibleStateError(f"stored burns have form {form}, expected {_FORM}")
        if base_us != plan.base_us or address.length not in plan.tiers.lengths:
            return False
        history = self._history(plan.place, address.kind)
        table = history.tables[plan.tiers.lengths.index(address.length)]
        if sums.shape != (len(rows), table.width) or (len(rows) and rows.max() >= table.size):
            raise IncompatibleStateError(
                f"stored burns of {address.objective} have shape {sums.shape}, expected {table.width} columns"
            )
        if address.kind == _OUTCOMES:
            rate = plan.rate(currency)
            sums[:, 3:5] *= (rate, rate * rate)
        table.restore(address.chunk, rows, sums)
        return True
