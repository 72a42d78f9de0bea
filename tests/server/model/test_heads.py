"""The mask head against the whole distribution, and what it keeps in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name it has everywhere
from torch.utils._python_dispatch import TorchDispatchMode

from mlmon.server.model import Targets
from mlmon.server.model.heads import HeadWeights, VocabularyHead

HIDDEN, INNER, VOCABULARY, ROWS = 24, 16, 301, 37


def weights(scale: float = 1.0) -> HeadWeights:
    torch.manual_seed(5)
    return HeadWeights(
        dense=torch.randn(INNER, HIDDEN),
        dense_bias=torch.randn(INNER),
        norm=torch.rand(INNER) + 0.5,
        norm_bias=torch.randn(INNER),
        eps=1e-5,
        decoder=torch.randn(VOCABULARY, INNER) * scale,
        decoder_bias=torch.randn(VOCABULARY),
        activation="gelu",
    )


def hidden(rows: int = ROWS) -> torch.Tensor:
    torch.manual_seed(6)
    return torch.randn(rows, HIDDEN)


def dense_logits(w: HeadWeights, x: torch.Tensor) -> torch.Tensor:
    """In float64, all at once."""
    inner = F.gelu(x.double() @ w.dense.double().T + w.dense_bias.double())  # type: ignore[union-attr]
    normed = F.layer_norm(inner, (INNER,), w.norm.double(), w.norm_bias.double(), w.eps)  # type: ignore[union-attr]
    return normed @ w.decoder.double().T + w.decoder_bias.double()  # type: ignore[union-attr]


@pytest.mark.parametrize("max_bytes", [1, 5 * 12 * VOCABULARY, 1 << 28])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_every_number_is_that_of_the_whole_distribution(max_bytes: int, scale: float) -> None:
    """In chunks of 1 row, of 5 and of all; also where one token has nearly all the probability."""
    w = weights(scale)
    head, logits = VocabularyHead(w, max_bytes), dense_logits(w, hidden())
    logprob = logits.log_softmax(-1)
    best = head.top_k(hidden(), 7)
    close = {"atol": 2e-4 * scale, "rtol": 1e-4}
    torch.testing.assert_close(best.logprob.double().clone(), logprob.topk(7).values, **close)
    torch.testing.assert_close(logprob.gather(1, best.ids.clone()), best.logprob.double().clone(), **close)
    torch.testing.assert_close(best.logsumexp.double().clone(), logits.logsumexp(-1), **close)
    entropy = -(logprob.exp() * logprob).sum(-1)
    torch.testing.assert_close(best.entropy.double().clone(), entropy, **close)
    true = np.arange(ROWS) * 8 % VOCABULARY
    truth = head.truth(hidden(), true)
    expected = -logprob[torch.arange(ROWS), torch.from_numpy(true)]
    torch.testing.assert_close(truth.nll.double().clone(), expected, **close)
    torch.testing.assert_close(head.nll(hidden(), true).double().clone(), expected, **close)
    assert truth.best.tolist() == logits.argmax(-1).tolist()
    torch.testing.assert_close(truth.entropy.double().clone(), entropy, **close)


@pytest.mark.parametrize("max_bytes", [1, 5 * 12 * VOCABULARY, 1 << 28])
def test_targets_restrict_each_row_to_its_own(max_bytes: int) -> None:
    w = weights()
    head, logprob = VocabularyHead(w, max_bytes), dense_logits(w, hidden()).log_softmax(-1)
    rng = np.random.default_rng(1)
    lists = [
        rng.choice(VOCABULARY, size=i % 6, replace=False).tolist() if i % 4 else None for i in range(ROWS)
    ]
    lists[3] = rng.choice(VOCABULARY, size=40, replace=False).tolist()
    free, bound = head.top_k(hidden(), 3), head.top_k(hidden(), 3, Targets.from_lists(lists))
    for row, targets in enumerate(lists):
        if not targets:
            assert bound.ids[row].tolist() == free.ids[row].tolist()
            assert torch.equal(bound.logprob[row], free.logprob[row])
            continue
        ranked = sorted(targets, key=lambda token: -float(logprob[row, token]))[:3]
        missing = 3 - len(ranked)
        assert bound.ids[row].tolist() == ranked + [-1] * missing
        values = [float(logprob[row, token]) for token in ranked] + [-np.inf] * missing
        np.testing.assert_allclose(bound.logprob[row].numpy(), values, atol=2e-4)
    assert torch.equal(bound.entropy, free.entropy)
    assert torch.equal(bound.logsumexp, free.logsumexp)


def test_no_rows_and_many_answers() -> None:
    head = VocabularyHead(weights())
    none = head.top_k(hidden(0), 5, Targets.from_lists([]))
    assert (none.ids.shape, none.entropy.shape) == ((0, 5), (0,))
    assert head.nll(hidden(0), np.empty(0, np.int64)).shape == (0,)
    everything = head.top_k(hidden(2), 10**6)
    assert everything.ids.shape == (2, VOCABULARY)
    torch.testing.assert_close(everything.logprob.exp().sum(-1).clone(), torch.ones(2))


def test_a_head_without_biases() -> None:
    """ModernBERT's, by default."""
    w = weights()
    bare = HeadWeights(w.dense, None, w.norm, None, w.eps, w.decoder, None, w.activation)
    zeros = {"dense_bias": torch.zeros(INNER), "norm_bias": torch.zeros(INNER)}
    full = HeadWeights(
        w.dense,
        zeros["dense_bias"],
        w.norm,
        zeros["norm_bias"],
        w.eps,
        w.decoder,
        torch.zeros(VOCABULARY),
        "gelu",
    )
    got, expected = VocabularyHead(bare).top_k(hidden(), 2), VocabularyHead(full).top_k(hidden(), 2)
    torch.testing.assert_close(got.logprob.clone(), expected.logprob.clone())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda h: h.top_k(hidden(), 0), "k of at least 1"),
        (lambda h: h.top_k(hidden(), 1, Targets.from_lists([[1]])), "targets of 37 rows, got 1"),
        (lambda h: h.top_k(hidden(1), 1, Targets.from_lists([[VOCABULARY]])), "from 0 to 300, got 301"),
        (lambda h: h.top_k(hidden(1), 1, Targets.from_lists([[-1]])), "from 0 to 300, got -1"),
        (lambda h: h.nll(hidden(), np.zeros(3, np.int64)), "each of 37 rows, got 3"),
        (lambda h: h.truth(hidden(1), np.array([VOCABULARY])), "from 0 to 300, got 301"),
    ],
)
def test_what_cannot_be_answered_says_why(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(VocabularyHead(weights()))


class _Sizes(TorchDispatchMode):
    """The most bytes that any tensor had that an operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel() * tensor.element_size())
        return out


def test_logits_never_exceed_their_share_of_memory() -> None:
    rows, limit = 500, 60 * VOCABULARY * 4
    head, states = VocabularyHead(weights(), limit), hidden(rows)
    assert head.rows_at_once == 20
    targets = Targets.from_lists([[i % VOCABULARY] for i in range(rows)])
    with _Sizes() as sizes:
        head.top_k(states, 3, targets)
        head.truth(states, np.zeros(rows, np.int64))
    assert sizes.largest <= max(limit // 3, rows * 3 * 8)
    assert sizes.largest > 0
