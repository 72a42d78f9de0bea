"""How much one poll may still bring."""

from __future__ import annotations

__all__ = ["Budget"]


class Budget:
    """What a poll may still bring, in records and bytes.

    Attributes:
        records: that still fit.
        bytes: that still fit.
        fresh: nothing was taken yet; then a record of any size fits, or a large one would never be read.
    """

    __slots__ = ("bytes", "fresh", "records")

    def __init__(self, records: int, bytes_: int, *, fresh: bool = True) -> None:
        self.records = records
        self.bytes = bytes_
        self.fresh = fresh

    def take(self, size: int) -> bool:
        """Whether a record of this size still fits; counts it if so.

        Example:
            >>> budget = Budget(3, 100)
            >>> [budget.take(size) for size in (150, 1, 1)]
            [True, False, False]
        """
        if not self.fresh and (self.records <= 0 or self.bytes < size):
            return False
        self.fresh = False
        self.records -= 1
        self.bytes -= size
        return True
