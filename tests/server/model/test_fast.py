"""The packed encoder's kernels: each way to attend, multiply, compile and record gives the same answers.

What runs on CUDA alone is driven here as far as its kernel, which a loop over sequences stands for.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name it has everywhere
from model_kit import LONGEST, VOCABULARY, random_batch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode

from mlmon.errors import ConfigError
from mlmon.server.model import LoadConfig, Packed, load_model
from mlmon.server.model.architectures import ARCHITECTURES
from mlmon.server.model.attention import GroupedAttention, VarlenAttention, choose_attention
from mlmon.server.model.fast import PackedEncoder, Speed
from mlmon.server.model.graphs import MAX_GRAPHS, GraphedEncoder, Size
from mlmon.server.model.heads import VocabularyHead
from mlmon.server.model.layout import Placed
from mlmon.server.model.linear import make_linear
from mlmon.server.model.weights import encoder_weights, head_weights, limits_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from model_kit import Made

    from mlmon.server.model.fast import EncoderWeights
    from mlmon.server.model.graphs import Run

Make: TypeAlias = "Callable[[str], Made]"
CPU = torch.device("cpu")


def weights(made: Make, kind: str = "bert", dtype: torch.dtype = torch.float32) -> EncoderWeights:
    model, architecture = made(kind).model, ARCHITECTURES[kind]
    return encoder_weights(model, architecture, limits_of(model, architecture, None), (CPU, dtype))


def kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor | None,
    max_q: int,
    max_k: int,
) -> torch.Tensor:
    """`varlen_attn` as documented: (T, heads, size) in and out; rows after the last offset are undefined."""
    assert cu_seq_k is not None
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert cu_seq_q.is_contiguous()
    assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1
    out = torch.full_like(query, torch.nan, memory_format=torch.contiguous_format)
    offsets = cu_seq_q.tolist()
    assert max(np.diff(offsets)) <= max_q == max_k
    for a, b in pairwise(offsets):
        parts = [x[a:b].transpose(0, 1)[None] for x in (query, key, value)]
        out[a:b] = F.scaled_dot_product_attention(*parts)[0].transpose(0, 1)
    return out


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_one_kernel_for_the_batch_answers_as_groups_do(made: Make, batch: Packed, kind: str) -> None:
    w = weights(made, kind)
    grouped, varlen = PackedEncoder(w, GroupedAttention()), PackedEncoder(w, VarlenAttention(kernel))
    torch.testing.assert_close(varlen.encode(batch), grouped.encode(batch), atol=2e-5, rtol=2e-5)
    rows = np.array([7, 7, 0, 99])
    torch.testing.assert_close(varlen.encode(batch, rows), grouped.encode(batch)[rows], atol=2e-5, rtol=2e-5)


def test_the_varlen_kernel_is_chosen_where_it_can_run() -> None:
    cuda = torch.device("cuda", 0)
    assert isinstance(choose_attention(cuda, torch.bfloat16, 64), VarlenAttention)
    for device, dtype, size in (
        (CPU, torch.bfloat16, 64),
        (cuda, torch.float32, 64),
        (cuda, torch.float16, 12),
        (cuda, torch.float16, 264),
    ):
        assert isinstance(choose_attention(device, dtype, size), GroupedAttention)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_what_runs_on_cuda_fits_together(made: Make, kind: str) -> None:
    """By shapes and dtypes: fake tensors know the kernels' signatures and need no GPU."""
    model, architecture = made(kind).model, ARCHITECTURES[kind]
    to = (torch.device("cuda", 0), torch.bfloat16)
    with FakeTensorMode(allow_non_fake_inputs=True):
        encoder = PackedEncoder(
            encoder_weights(model, architecture, limits_of(model, architecture, None), to), VarlenAttention()
        )
        assert [type(after.up).__name__ for after in encoder.after] == ["_AddmmGelu"] * 3
        tokens = [torch.empty(25, dtype=torch.int32, device=to[0]) for _ in range(3)]
        offsets = torch.empty(4, dtype=torch.int32, device=to[0])
        hidden = encoder.run(Placed(*tokens, offsets, 17, ()), None)
        logits = VocabularyHead(head_weights(model, architecture, to)).logits(hidden)
    assert (hidden.shape, hidden.dtype, hidden.device) == ((25, 48), torch.bfloat16, to[0])
    assert (logits.shape, logits.dtype, logits.device) == ((25, VOCABULARY), torch.float32, to[0])


@pytest.mark.parametrize(
    "name", [None, "gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "quick_gelu"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_fused_products_are_products(name: str | None, dtype: torch.dtype, bias: bool) -> None:
    torch.manual_seed(1)
    w, x = torch.randn(40, 24), torch.randn(9, 24)
    b = torch.randn(40) if bias else None
    expected = F.linear(
        x.to(dtype).double(), w.to(dtype).double(), None if b is None else b.to(dtype).double()
    )
    by_name = {
        None: lambda y: y,
        "gelu": F.gelu,
        "gelu_new": lambda y: F.gelu(y, approximate="tanh"),
        "gelu_pytorch_tanh": lambda y: F.gelu(y, approximate="tanh"),
        "relu": F.relu,
        "silu": F.silu,
        "quick_gelu": lambda y: y * torch.sigmoid(1.702 * y),
    }
    step = 1e-5 if dtype == torch.float32 else 0.02
    for prepack in (True, False):
        linear = make_linear(w.to(dtype), None if b is None else b.to(dtype), name, prepack=prepack)
        with torch.inference_mode():
            got = linear(x.to(dtype)).double().clone()
        torch.testing.assert_close(got, by_name[name](expected), atol=step, rtol=step)


def test_the_tanh_form_of_gelu_is_as_near_as_said() -> None:
    x = torch.linspace(-20, 20, 400_001, dtype=torch.float64)
    assert (F.gelu(x) - F.gelu(x, approximate="tanh")).abs().max() < 5e-4


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(ConfigError, match="activation is 'wish'; expected one of"):
        make_linear(torch.zeros(2, 2), None, "wish")


def test_sixteen_bit_is_near(made: Make, batch: Packed) -> None:
    full = PackedEncoder(weights(made)).encode(batch)
    half = PackedEncoder(weights(made, dtype=torch.bfloat16)).encode(batch)
    assert half.dtype == torch.bfloat16
    assert (half.float() - full).abs().mean() < 0.02 * full.abs().mean()


def test_compiled_parts_serve_all_layers_and_sizes(made: Make) -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    w = weights(made)
    compiled = PackedEncoder(w, speed=Speed(compile=True, backend=counter))  # type: ignore[arg-type]
    usual = PackedEncoder(w)
    for lengths in ((5, 17, 3), (9, 9, 2, 30, 11), (40, 41)):
        batch = random_batch(lengths)
        torch.testing.assert_close(compiled.encode(batch), usual.encode(batch), atol=2e-5, rtol=2e-5)
    # embeddings and the part after attention, once each
    assert counter.frame_count == 2


class Captures:
    """Records by keeping the function and calling it again, as a CUDA graph does with kernels."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, run: Run) -> tuple[Callable[[], None], torch.Tensor]:
        self.recorded += 1
        answer = run()

        def replay() -> None:
            self.replayed += 1
            answer.copy_(run())

        return replay, answer


def graphed(made: Make, *tokens: int) -> tuple[GraphedEncoder, PackedEncoder, Captures]:
    inner, captures = PackedEncoder(weights(made, "roberta"), VarlenAttention(kernel)), Captures()
    return GraphedEncoder(inner, tokens, captures), inner, captures


def test_a_recorded_size_answers_for_every_batch_that_fits(made: Make) -> None:
    encoder, inner, captures = graphed(made, 128, 64)
    kept = []
    for lengths, rows in (
        ((30, 20, 14), None),  # exactly 64
        ((7,), None),
        ((9, 9, 9), [26, 0, 5]),
        ((3, 2), [4]),
        ((40, 12, 13), None),  # 65
        ((1,) * 9, None),  # nine sequences need the room of 128 tokens
    ):
        batch = random_batch(lengths, seed=sum(lengths))
        wanted = None if rows is None else np.array(rows)
        answer, expected = encoder.encode(batch, wanted), inner.encode(batch, wanted)
        kept.append((answer, expected))
        assert answer.shape == expected.shape
    assert (captures.recorded, captures.replayed) == (3, 6)
    assert encoder.recorded == (Size(64, LONGEST, 0), Size(64, LONGEST, 8), Size(128, LONGEST, 0))
    for answer, expected in kept:  # later replays have not overwritten earlier answers
        torch.testing.assert_close(answer, expected, atol=2e-5, rtol=2e-5)


def test_a_batch_larger_than_all_sizes_runs_as_usual(made: Make) -> None:
    encoder, inner, captures = graphed(made, 64)
    for lengths in ((40, 25), (1,) * 9):
        batch = random_batch(lengths)
        torch.testing.assert_close(encoder.encode(batch), inner.encode(batch))
    assert captures.recorded == 0


def test_graphs_are_bounded_and_the_one_unused_longest_goes(made: Make) -> None:
    sizes = tuple(range(8, 8 * (MAX_GRAPHS + 4), 8))
    encoder, _, captures = graphed(made, *sizes)
    first = random_batch((8,))
    for tokens in sizes[:MAX_GRAPHS]:
        encoder.encode(random_batch(tuple([8] * (tokens // 8))))
    encoder.encode(first)
    encoder.encode(random_batch(tuple([8] * (sizes[MAX_GRAPHS] // 8))))
    kept = [size.tokens for size in encoder.recorded]
    assert len(kept) == MAX_GRAPHS
    assert 8 in kept
    assert 16 not in kept
    assert captures.recorded == MAX_GRAPHS + 1


def test_a_refused_batch_leaves_recorded_sizes_as_they_were(made: Make) -> None:
    encoder, inner, _ = graphed(made, 64)
    batch = random_batch((9, 4))
    encoder.encode(batch)
    with pytest.raises(ValueError, match="token ids"):
        encoder.encode(Packed.from_flat(np.array([5, 10_000]), np.array([2])))
    torch.testing.assert_close(encoder.encode(batch), inner.encode(batch))


def test_graphs_say_what_they_need(made: Make) -> None:
    inner = PackedEncoder(weights(made))
    with pytest.raises(ConfigError, match="need the varlen kernel"):
        GraphedEncoder(inner, (64,), Captures())
    with pytest.raises(ConfigError, match="at least 8"):
        GraphedEncoder(inner, (4,), Captures())
    with pytest.raises(ConfigError, match="CUDA graphs need CUDA, the model is on cpu"):
        load_model(made("bert").directory, LoadConfig(device="cpu", graph_tokens=(64,)))
