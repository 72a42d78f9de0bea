"""Every architecture answers what transformers answers on a padded batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name it has everywhere
from model_kit import CONFIGURATIONS, VOCABULARY, ask, random_batch, tokenizer_of
from transformers import PreTrainedTokenizerFast, pipeline

from mlmon.server.model import LoadConfig, Packed, Targets, load_model, pool

if TYPE_CHECKING:
    from collections.abc import Callable

    from model_kit import Made

#: Kinds that the packed encoder computes.
PACKED = (
    "bert",
    "bert-relu",
    "bert-quick",
    "bert-untied",
    "roberta",
    "roberta-tanh",
    "xlm-roberta",
    "distilbert",
)
Make: TypeAlias = "Callable[[str], Made]"


def close(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got.clone(), expected, atol=3e-5, rtol=3e-5)


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_each_architecture_agrees_with_transformers(made: Make, batch: Packed, kind: str) -> None:
    model = made(kind)
    loaded = load_model(model.directory)
    oracle = ask(model, batch)
    assert loaded.info.path == ("packed" if kind in PACKED else "plain")
    assert oracle.hidden.std() > 0.3  # not a constant, with which anything would agree
    hidden = loaded.encoder.encode(batch)
    close(hidden, oracle.hidden)
    rows = np.array([40, 3, 3, 0, batch.tokens - 1, 17])
    close(loaded.encoder.encode(batch, rows), oracle.hidden[rows])
    logprob = oracle.logits.log_softmax(-1)
    best = loaded.head.top_k(hidden, 4)
    close(best.logprob, logprob.topk(4).values)
    close(logprob.gather(1, best.ids.clone()), best.logprob)
    close(best.logsumexp, oracle.logits.logsumexp(-1))
    close(best.entropy, torch.distributions.Categorical(logits=oracle.logits).entropy())
    true = np.random.default_rng(0).integers(0, VOCABULARY, batch.tokens)
    loss = F.cross_entropy(oracle.logits, torch.from_numpy(true), reduction="none")
    close(loaded.head.nll(hidden, true), loss)


@pytest.mark.parametrize("kind", PACKED)
def test_packed_and_plain_agree(made: Make, batch: Packed, kind: str) -> None:
    directory = made(kind).directory
    packed, plain = (load_model(directory, LoadConfig(path=path)) for path in ("packed", "plain"))
    assert (packed.info.path, plain.info.path) == ("packed", "plain")
    one, other = packed.encoder.encode(batch), plain.encoder.encode(batch)
    close(one, other)
    close(packed.head.top_k(one, 3).logprob, plain.head.top_k(other, 3).logprob)
    for how in ("mean", "cls"):
        close(pool(one, batch, how), pool(other, batch, how))


@pytest.mark.parametrize("path", ["packed", "plain"])
def test_a_sequence_answers_the_same_in_any_company(made: Make, path: str) -> None:
    encoder = load_model(made("roberta").directory, LoadConfig(path=path)).encoder
    batch = random_batch((7, 7, 2, 31, 12, 1, 12))
    together = encoder.encode(batch)
    order = [4, 0, 6, 2, 5, 3, 1]
    parts = [slice(s, s + n) for s, n in zip(batch.starts, batch.lengths, strict=True)]
    shuffled = Packed.from_flat(np.concatenate([batch.ids[parts[i]] for i in order]), batch.lengths[order])
    close(encoder.encode(shuffled), torch.cat([together[parts[i]] for i in order]))
    for part in parts:
        alone = Packed.from_flat(batch.ids[part], np.array([part.stop - part.start]))
        close(encoder.encode(alone), together[part])


@pytest.mark.parametrize("path", ["packed", "plain"])
def test_a_padding_token_inside_a_text_keeps_its_place(made: Make, path: str) -> None:
    """RoBERTa gives it the padding position, and counts on after it."""
    model = made("roberta")
    ids = np.array([0, 9, 1, 1, 8, 2, 0, 1, 7, 2])
    batch = Packed.from_flat(ids, np.array([6, 4]))
    encoder = load_model(model.directory, LoadConfig(path=path)).encoder
    close(encoder.encode(batch), ask(model, batch).hidden)


def test_segments_make_a_difference_where_there_are_any(made: Make, batch: Packed) -> None:
    bare = Packed.from_flat(batch.ids, batch.lengths)
    for kind, differs in (("bert", True), ("roberta", False), ("distilbert", False)):
        encoder = load_model(made(kind).directory).encoder
        segments = batch if differs else Packed.from_flat(batch.ids, batch.lengths, np.zeros_like(batch.ids))
        assert torch.equal(encoder.encode(bare), encoder.encode(segments)) is not differs


def test_fill_mask_answers_what_the_pipeline_answers(made: Make) -> None:
    model = made("bert")
    loaded = load_model(model.directory)
    tokenizer = tokenizer_of(model.special)
    tokenizer.no_truncation()
    names = {"mask_token": "[MASK]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    ask_pipeline = pipeline("fill-mask", model=model.model, tokenizer=fast, device="cpu")
    text, targets = "w9 [MASK] w17 w30 w31 w99 w7 w8", ["w20", "w99", "w100"]
    encoded = loaded.tokenizer.encode(text)
    batch = Packed.from_flat(np.array(encoded.ids), np.array([len(encoded.ids)]))
    rows = np.flatnonzero(batch.ids == loaded.special.mask)
    hidden = loaded.encoder.encode(batch, rows)
    chosen = Targets.from_lists([[loaded.tokenizer.token_to_id(t) for t in targets]])
    for answer, expected in (
        (loaded.head.top_k(hidden, 6), ask_pipeline(text, top_k=6)),
        (loaded.head.top_k(hidden, 3, chosen), ask_pipeline(text, targets=targets, top_k=3)),
    ):
        assert answer.ids[0].tolist() == [row["token"] for row in expected]
        np.testing.assert_allclose(
            answer.logprob[0].exp().numpy(), [row["score"] for row in expected], rtol=1e-4
        )
