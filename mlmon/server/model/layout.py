"""How a packed batch lies on the device: token order, positions, offsets; checked and moved in one transfer.

Attention without a varlen kernel runs over groups of sequences of one length, so that nothing is padded; for
it the sequences are sorted by length, and rows come back in the batch's own order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmon.server.model.batch import Packed

__all__ = ["Group", "Limits", "Placed", "Tables", "arrange", "check", "place", "split", "to_device"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a model takes.

    Attributes:
        vocabulary: ids are below it.
        segments: segment ids are below it; 0 where the model does not tell segments apart, and then they are
            ignored.
        length: tokens of the longest sequence.
        padding: the padding id, where positions are counted from it: the first token's position is `padding`
            + 1 and a padding token inside the text keeps position `padding`. None: positions begin at 0.
    """

    vocabulary: int
    segments: int
    length: int
    padding: int | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """`count` sequences of `length` tokens each, from row `start` on."""

    start: int
    count: int
    length: int


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """A batch as the encoder takes it, on the host.

    Attributes:
        values: int32: ids, positions, segments (T each), then the offsets (S + 1); one array, so one
            transfer.
        tokens: T.
        sequences: S.
        max_length: tokens of the longest sequence.
        groups: sequences of one length; empty unless sorted.
        inverse: row of each token of the batch among the sorted ones, int64, (T,); None where nothing moved.
    """

    values: NDArray[np.int32]
    tokens: int
    sequences: int
    max_length: int
    groups: tuple[Group, ...]
    inverse: NDArray[np.int64] | None


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """The same on the device: int32 views of one buffer.

    Attributes:
        ids: (T,).
        positions: (T,), as the position table counts them.
        segments: (T,).
        cu_seqlens: (S + 1,).
        max_length: tokens of the longest sequence, or a bound of it.
        groups: as in `Tables`.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    segments: torch.Tensor
    cu_seqlens: torch.Tensor
    max_length: int
    groups: tuple[Group, ...]


def check(batch: Packed, limits: Limits, rows: NDArray[np.int64] | None = None) -> None:
    """Refuse what would index outside a table; on CUDA that would end the process's use of the device.

    Raises:
        ValueError: says what was expected and what came.
    """
    low, high = int(batch.ids.min()), int(batch.ids.max())
    if low < 0 or high >= limits.vocabulary:
        raise ValueError(f"expected token ids from 0 to {limits.vocabulary - 1}, got {low} to {high}")
    if batch.max_length > limits.length:
        raise ValueError(
            f"expected sequences of at most {limits.length} tokens, got {batch.max_length}; "
            "cut or split the text"
        )
    if batch.segments is not None and limits.segments:
        low, high = int(batch.segments.min()), int(batch.segments.max())
        if low < 0 or high >= limits.segments:
            raise ValueError(f"expected segment ids from 0 to {limits.segments - 1}, got {low} to {high}")
    if rows is not None and rows.size and (rows.min() < 0 or rows.max() >= batch.tokens):
        raise ValueError(f"expected rows from 0 to {batch.tokens - 1}, got {rows.min()} to {rows.max()}")


def arrange(batch: Packed, limits: Limits, *, by_length: bool) -> Tables:
    """Order tokens, count positions.

    Args:
        batch: checked.
        limits: of the model.
        by_length: sort sequences by length, longest last.
    """
    lengths, ids, segments = batch.lengths, batch.ids, batch.segments
    groups: tuple[Group, ...] = ()
    inverse = None
    if by_length:
        if (lengths[1:] < lengths[:-1]).any():
            order = np.argsort(lengths, kind="stable")
            moved = np.repeat(batch.starts[order] - _starts(lengths[order]), lengths[order])
            index = moved + np.arange(batch.tokens)
            lengths, ids = lengths[order], ids[index]
            segments = None if segments is None else segments[index]
            inverse = np.empty_like(index)
            inverse[index] = np.arange(batch.tokens)
        groups = _groups(lengths)
    values = np.zeros(3 * batch.tokens + batch.sequences + 1, np.int32)
    table = values[: 3 * batch.tokens].reshape(3, batch.tokens)
    table[0] = ids
    table[1] = _positions(ids, lengths, limits.padding)
    if segments is not None and limits.segments:
        table[2] = segments
    values[3 * batch.tokens + 1 :] = np.cumsum(lengths)
    return Tables(values, batch.tokens, batch.sequences, batch.max_length, groups, inverse)


def place(tables: Tables, device: torch.device) -> Placed:
    """Move to the device, in one transfer."""
    buffer = to_device(tables.values, device)
    return split(buffer, tables.tokens, tables.max_length, tables.groups)


def to_device(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """Move an array; to CUDA from pinned memory, so that the host need not wait for the device."""
    # a tensor of a read-only array could be written to, of which PyTorch warns
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def split(buffer: torch.Tensor, tokens: int, max_length: int, groups: tuple[Group, ...] = ()) -> Placed:
    """Name the parts of a buffer laid out as `Tables.values`."""
    ids, positions, segments = buffer[: 3 * tokens].view(3, tokens).unbind(0)
    return Placed(ids, positions, segments, buffer[3 * tokens :], max_length, groups)


def _starts(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.cumsum(lengths) - lengths


def _groups(lengths: NDArray[np.int64]) -> tuple[Group, ...]:
    values, first, counts = np.unique(lengths, return_index=True, return_counts=True)
    starts = _starts(lengths)[first]
    return tuple(map(Group, starts.tolist(), counts.tolist(), values.tolist()))


def _positions(ids: NDArray[np.int64], lengths: NDArray[np.int64], padding: int | None) -> NDArray[np.int64]:
    starts = _starts(lengths)
    if padding is None:
        return np.arange(ids.size) - np.repeat(starts, lengths)
    real = ids != padding
    if real.all():
        return np.arange(padding + 1, ids.size + padding + 1) - np.repeat(starts, lengths)
    counted = np.cumsum(real)
    before = counted[starts] - real[starts]
    positions: NDArray[np.int64] = (counted - np.repeat(before, lengths)) * real + padding
    return positions
