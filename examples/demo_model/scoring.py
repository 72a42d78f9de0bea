"""How well a masked LM knows a text: masked-token accuracy, masked NLL, pseudo-log-likelihood.

Accuracy and NLL mask 15 % of the tokens at once, all with [MASK]. The pseudo-log-likelihood (Salazar et al.,
"Masked Language Model Scoring", 2020) masks one token at a time and adds the log-probabilities. All in nats.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from network import Bert, Shape
from pieces import CLS, MASK, SEP
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["Score", "load", "masked_score", "pseudo_log_likelihood"]

_BATCH_TOKENS = 8192
_PAD, _UNKNOWN = 0, 1
#: Tokens that are no part of the text.
_FRAME = (_PAD, CLS, SEP, MASK)


@dataclass(frozen=True, slots=True)
class Score:
    """Masked-token figures.

    Attributes:
        accuracy: share of masked tokens whose most likely token is the true one.
        nll: mean negative log-probability of the true token, nats.
        positions: number of masked tokens.
        unknown: share of [UNK] among all tokens.
    """

    accuracy: float
    nll: float
    positions: int
    unknown: float


def load(directory: Path) -> tuple[Bert, Tokenizer]:
    """The model of a directory, in single precision, and its tokenizer, cutting at the model's positions."""
    shape = Shape.of(json.loads((directory / "config.json").read_text(encoding="utf-8")))
    model = Bert(shape)
    model.load_state_dict({name: t.float() for name, t in load_file(directory / "model.safetensors").items()})
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.enable_truncation(shape.positions)
    return model.eval(), tokenizer


def masked_score(
    model: Bert, sequences: Sequence[Sequence[int]], seed: int = 0, share: float = 0.15
) -> Score:
    """Mask a share of each sequence's tokens, at least one.

    [UNK] is asked for as any token is. Without it a tokenizer that no longer knows most words would look
    better than the right one: what it still knows, full stops and the like, is easily guessed.
    """
    rng = np.random.default_rng(seed)
    rows, true, where = [], [], []
    for ids in sequences:
        maskable = [i for i, token in enumerate(ids) if token not in _FRAME]
        if maskable:
            asked = np.sort(rng.choice(maskable, max(1, round(share * len(maskable))), replace=False))
            row = np.array(ids)
            true.append(row[asked])
            row[asked] = MASK
            rows.append(row)
            where.append(asked)
    nll, right = _ask(model, rows, where, true)
    tokens = np.concatenate([np.asarray(ids) for ids in sequences])
    unknown = (tokens == _UNKNOWN).sum() / max(1, (~np.isin(tokens, _FRAME)).sum())
    return Score(float(np.mean(right)), float(np.mean(nll)), len(nll), float(unknown))


def pseudo_log_likelihood(model: Bert, sequences: Sequence[Sequence[int]]) -> np.ndarray:
    """Sum over a sequence's tokens of the log-probability of each when it alone is masked; (n,), nats, <= 0.

    [UNK] is a token among others here: a text of unknown characters is a text.
    """
    rows, true, where, owner = [], [], [], []
    for index, ids in enumerate(sequences):
        for at in range(1, len(ids) - 1):
            row = np.array(ids)
            true.append(row[[at]])
            row[at] = MASK
            rows.append(row)
            where.append(np.array([at]))
            owner.append(index)
    nll, _ = _ask(model, rows, where, true)
    return -np.bincount(owner, nll, len(sequences))


@torch.inference_mode()
def _ask(
    model: Bert, rows: list[np.ndarray], where: list[np.ndarray], true: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """NLL and rightness of each asked position, in the order of the rows."""
    nll: list[np.ndarray] = [np.empty(0)] * len(rows)
    right: list[np.ndarray] = [np.empty(0)] * len(rows)
    for group in _of_one_length(rows):
        hidden = model(torch.from_numpy(np.stack([rows[i] for i in group])))
        counts = [len(where[i]) for i in group]
        row = torch.from_numpy(np.repeat(np.arange(len(group)), counts))
        scores = model.scores(hidden[row, torch.from_numpy(np.concatenate([where[i] for i in group]))])
        answers = torch.from_numpy(np.concatenate([true[i] for i in group]))
        losses = F.cross_entropy(scores, answers, reduction="none").numpy()
        hits = (scores.argmax(-1) == answers).numpy()
        ends = np.cumsum(counts)[:-1]
        for i, loss, hit in zip(group, np.split(losses, ends), np.split(hits, ends), strict=True):
            nll[i], right[i] = loss, hit
    return np.concatenate(nll), np.concatenate(right)


def _of_one_length(rows: list[np.ndarray]) -> Iterator[list[int]]:
    groups: dict[int, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        group = groups[len(row)]
        group.append(index)
        if len(group) * len(row) >= _BATCH_TOKENS:
            yield groups.pop(len(row))
    yield from groups.values()
