"""CUDA graphs for small batches, whose time goes into launching kernels.

A graph replays kernels at fixed sizes, so a batch is brought to the next recorded size. Rows beyond its
tokens lie after the last offset: attention does not touch them, everything else works row by row, and nobody
reads what comes out of them. Sequences beyond its own have no tokens.

Recorded sizes are bounded: tokens as configured, longest sequence and wanted rows by powers of two, and at
most `MAX_GRAPHS` graphs in all, the one unused longest going first. A batch larger than all sizes runs as
usual.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from mlmon.errors import ConfigError
from mlmon.server.model.layout import arrange, check, split, to_device

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmon.server.model.batch import Packed
    from mlmon.server.model.fast import PackedEncoder
    from mlmon.server.model.layout import Tables

__all__ = ["MAX_GRAPHS", "Capture", "GraphedEncoder", "Size", "size_for"]

MAX_GRAPHS = 32
#: A recorded size has room for one sequence to so many tokens; more, shorter sequences take a larger size.
_TOKENS_PER_SEQUENCE = 8
_SHORTEST, _FEWEST_ROWS, _WARM_UP = 64, 8, 3

#: A function without arguments that computes on tensors it holds.
Run: TypeAlias = Callable[[], torch.Tensor]
#: Records such a function: gives what replays it, and the tensor that holds its answer after each replay.
Capture: TypeAlias = Callable[[Run], tuple[Callable[[], None], torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Size:
    """A recorded size.

    Attributes:
        tokens: T.
        longest: bound of the longest sequence.
        rows: wanted rows; 0 means all.
    """

    tokens: int
    longest: int
    rows: int

    @property
    def sequences(self) -> int:
        """S."""
        return max(1, self.tokens // _TOKENS_PER_SEQUENCE)


def size_for(tables: Tables, rows: int | None, tokens: tuple[int, ...], max_length: int) -> Size | None:
    """The smallest recorded size that holds a batch; None where none does.

    Args:
        tables: the batch.
        rows: how many rows are wanted; None means all.
        tokens: recorded sizes, ascending.
        max_length: the model's longest sequence.
    """
    for size in tokens:
        if size >= tables.tokens and size // _TOKENS_PER_SEQUENCE >= tables.sequences:
            longest = min(max_length, max(_SHORTEST, _power_of_two(tables.max_length)))
            return Size(size, longest, 0 if rows is None else max(_FEWEST_ROWS, _power_of_two(rows)))
    return None


@dataclass(slots=True, eq=False)
class _Recorded:
    buffer: torch.Tensor
    rows: torch.Tensor | None
    replay: Callable[[], None]
    answer: torch.Tensor


class GraphedEncoder:
    """A packed encoder that replays graphs where a batch is small; see `protocols.Encoder`.

    Args:
        inner: the encoder; its attention must not depend on groups of equal length.
        tokens: sizes to record, in tokens.
        capture: how a function is recorded; None is a CUDA graph.

    Raises:
        ConfigError: sizes that are not positive, or an encoder whose attention depends on groups.
    """

    def __init__(self, inner: PackedEncoder, tokens: tuple[int, ...], capture: Capture | None = None) -> None:
        if not tokens or min(tokens) < _TOKENS_PER_SEQUENCE:
            raise ConfigError(
                f"graph_tokens: expected sizes of at least {_TOKENS_PER_SEQUENCE}, got {tokens}"
            )
        if inner.attention.by_length:
            raise ConfigError(
                "graph_tokens: CUDA graphs need the varlen kernel, which takes bfloat16 or float16 and heads "
                "of a multiple of 8 up to 256"
            )
        self._inner = inner
        self._tokens = tuple(sorted(set(tokens)))
        self._capture = capture or _CudaCapture()
        self._recorded: OrderedDict[Size, _Recorded] = OrderedDict()
        self.hidden_size, self.max_length, self.device = inner.hidden_size, inner.max_length, inner.device

    @property
    def recorded(self) -> tuple[Size, ...]:
        """Sizes recorded so far, the one unused longest first."""
        return tuple(self._recorded)

    @torch.inference_mode()
    def encode(self, batch: Packed, rows: NDArray[np.int64] | None = None) -> torch.Tensor:
        """See `protocols.Encoder.encode`."""
        check(batch, self._inner.limits, rows)
        tables = arrange(batch, self._inner.limits, by_length=False)
        wanted = None if rows is None else len(rows)
        size = size_for(tables, wanted, self._tokens, self.max_length)
        if size is None:
            return self._inner.encode(batch, rows)
        graph = self._recorded.pop(size, None) or self._record(size, tables)
        self._recorded[size] = graph
        if len(self._recorded) > MAX_GRAPHS:
            self._recorded.popitem(last=False)
        self._fill(graph, size, tables, rows)
        graph.replay()
        # the graph's memory is written again by the next replay, of this graph or of another
        return graph.answer[: batch.tokens if wanted is None else wanted].clone()

    def _fill(self, graph: _Recorded, size: Size, tables: Tables, rows: NDArray[np.int64] | None) -> None:
        graph.buffer.copy_(to_device(_padded(tables, size), self.device))
        if graph.rows is not None and rows is not None:
            padded = np.zeros(size.rows, np.int64)
            padded[: len(rows)] = rows
            graph.rows.copy_(to_device(padded, self.device))

    def _record(self, size: Size, tables: Tables) -> _Recorded:
        buffer = to_device(_padded(tables, size), self.device)
        index = torch.zeros(size.rows, dtype=torch.int64, device=self.device) if size.rows else None
        placed = split(buffer, size.tokens, size.longest)
        replay, answer = self._capture(lambda: self._inner.run(placed, index))
        return _Recorded(buffer, index, replay, answer)


class _CudaCapture:
    """Records CUDA graphs; they share one pool of memory, since only one of them runs at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Run) -> tuple[Callable[[], None], torch.Tensor]:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            # kernels choose their algorithms and workspaces when they first run, which must not be recorded
            for _ in range(_WARM_UP):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            answer = run()
        return graph.replay, answer


def _padded(tables: Tables, size: Size) -> NDArray[np.int32]:
    """`Tables.values` at a recorded size: id 0 at position 0 beyond the batch, then empty sequences."""
    values = np.zeros(3 * size.tokens + size.sequences + 1, np.int32)
    t = tables.tokens
    values[: 3 * size.tokens].reshape(3, size.tokens)[:, :t] = tables.values[: 3 * t].reshape(3, t)
    offsets = values[3 * size.tokens :]
    offsets[:] = t
    offsets[: tables.sequences + 1] = tables.values[3 * t :]
    return values


def _power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()
