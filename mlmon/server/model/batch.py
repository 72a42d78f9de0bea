"""Sequences end to end: what every encoder takes, with nothing padded.

Arrays are NumPy on the host. The encoder checks them there, lays them out as its attention wants them and
moves them in one transfer; so lengths and offsets are known without asking the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Packed", "pack"]


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """A batch of S sequences, T tokens together. Made by `pack` or `Packed.from_flat`.

    Attributes:
        ids: token ids, int64, (T,); special tokens included.
        segments: segment (token type) ids, int64, (T,); None means all 0.
        cu_seqlens: where each sequence begins, and T; int32, (S + 1,).
        lengths: tokens of each sequence, int64, (S,); none is 0.
        starts: row of each sequence's first token, int64, (S,). Token j of sequence i is row `starts[i] + j`.

    Example:
        >>> batch = pack([[2, 7, 3], [2, 3]])
        >>> batch.ids.tolist(), batch.cu_seqlens.tolist()
        ([2, 7, 3, 2, 3], [0, 3, 5])
        >>> batch.tokens, batch.sequences, batch.max_length
        (5, 2, 3)
    """

    ids: NDArray[np.int64]
    segments: NDArray[np.int64] | None
    cu_seqlens: NDArray[np.int32]
    lengths: NDArray[np.int64]
    starts: NDArray[np.int64]

    @classmethod
    def from_flat(
        cls,
        ids: NDArray[np.int64],
        lengths: NDArray[np.int64],
        segments: NDArray[np.int64] | None = None,
    ) -> Packed:
        """Take arrays that are flat already.

        Args:
            ids: (T,), any integer type.
            lengths: (S,), any integer type; their sum is T.
            segments: (T,) or None.

        Raises:
            ValueError: no sequence, an empty sequence, or shapes that do not fit.
        """
        ids, lengths = np.ascontiguousarray(ids, np.int64), np.ascontiguousarray(lengths, np.int64)
        if ids.ndim != 1 or lengths.ndim != 1 or not lengths.size:
            raise ValueError(
                f"expected flat ids and at least one length, got {ids.shape} and {lengths.shape}"
            )
        if lengths.min() < 1:
            raise ValueError(f"expected every sequence to have a token, got length {lengths.min()}")
        ends = np.cumsum(lengths)
        if ends[-1] != ids.size:
            raise ValueError(f"expected lengths that add up to {ids.size} tokens, got {ends[-1]}")
        if segments is not None:
            segments = np.ascontiguousarray(segments, np.int64)
            if segments.shape != ids.shape:
                raise ValueError(f"expected a segment for each of {ids.size} tokens, got {segments.shape}")
        cu_seqlens = np.zeros(lengths.size + 1, np.int32)
        cu_seqlens[1:] = ends
        return cls(ids, segments, cu_seqlens, lengths, ends - lengths)

    @property
    def tokens(self) -> int:
        """T."""
        return int(self.ids.size)

    @property
    def sequences(self) -> int:
        """S."""
        return int(self.lengths.size)

    @property
    def max_length(self) -> int:
        """Tokens of the longest sequence."""
        return int(self.lengths.max())


def pack(sequences: Sequence[Sequence[int]], segments: Sequence[Sequence[int]] | None = None) -> Packed:
    """Lay sequences of token ids end to end.

    Args:
        sequences: ids of each sequence, special tokens included.
        segments: segment ids, the same shape; None means all 0.

    Raises:
        ValueError: no sequence, an empty sequence, or segments of another shape.
    """
    if segments is not None and list(map(len, segments)) != list(map(len, sequences)):
        raise ValueError("expected segments of the same lengths as the sequences")
    lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
    return Packed.from_flat(
        _flat(sequences, int(lengths.sum())),
        lengths,
        None if segments is None else _flat(segments, int(lengths.sum())),
    )


def _flat(rows: Sequence[Sequence[int]], total: int) -> NDArray[np.int64]:
    return np.fromiter((value for row in rows for value in row), np.int64, total)
