"""A small text encoder and classifier in NumPy, trained in a second: the demo's model.

    token ids → unigrams and bigrams, hashed → TF-IDF → truncated SVD (latent semantic analysis, Deerwester et
    al. 1990) → x = tanh(sA + b), the embedding → softmax(xC + c), the probabilities of the intents

A, b, C, c are fitted to the labels by Adam (Kingma and Ba 2015). It has what matters for watching a model: it
reads token ids, so a wrong tokenizer reaches it; it has a layer of weights that can be damaged; and it
answers every text, also those of which it has never seen the like.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["DIMENSION", "Answer", "Encoder"]

DIMENSION = 64
_BUCKETS = 4096
#: Directions beyond `DIMENSION` and power iterations of the randomised SVD (Halko, Martinsson, Tropp 2011).
_SPARE, _POWERS = 16, 3
#: Few steps and much decay: a model that is right, and not always sure.
_STEPS, _RATE, _DECAY = 60, 0.02, 4e-3


class Answer(NamedTuple):
    """What the model says of a text: its embedding, shape (64,), and the probability of each label."""

    embedding: NDArray[np.float32]
    probabilities: NDArray[np.float32]


class Encoder:
    """The model.

    Args:
        weights: idf (4096,), basis (4096, 64), layer (64, 64), layer_bias, head (64, labels), head_bias.
        labels: in the order of the probabilities.
    """

    def __init__(self, weights: dict[str, NDArray[np.float32]], labels: Sequence[str]) -> None:
        self._weights = weights
        self.labels = tuple(labels)

    @classmethod
    def train(cls, rows: Sequence[tuple[str, Sequence[int]]], seed: int = 0) -> Encoder:
        """Fit everything to labelled token ids; the same rows and seed give the same model.

        Args:
            rows: label and token ids of each text, some thousands.
            seed: of the first weights.
        """
        rng = np.random.default_rng(seed)
        labels = sorted({label for label, _ in rows})
        terms = [_terms(ids) for _, ids in rows]
        seen = np.bincount(np.concatenate([columns for columns, _ in terms]), minlength=_BUCKETS)
        idf = np.log(len(rows) / (1.0 + seen)).clip(0.0).astype(np.float32)
        matrix = _matrix([(columns, _weighted(columns, counts, idf)) for columns, counts in terms])
        weights = {"idf": idf, "basis": _basis(matrix, rng)}
        wanted = np.searchsorted(labels, [label for label, _ in rows])
        weights |= _fit(matrix @ weights["basis"], wanted, len(labels), rng)
        return cls(weights, labels)

    def answer(self, ids: Sequence[int]) -> Answer:
        """Embedding and probabilities of one text."""
        held = self._weights
        columns, counts = _terms(ids)
        scores = _weighted(columns, counts, held["idf"]) @ held["basis"][columns]
        inner = np.tanh(scores @ held["layer"] + held["layer_bias"])
        return Answer(inner, _softmax(inner @ held["head"] + held["head_bias"]))

    def damaged(self, noise: float, seed: int = 1) -> Encoder:
        """The same model with noise added to every weight of the tanh layer.

        Args:
            noise: standard deviation of it, as a share of the weights' root mean square.
            seed: of the noise.
        """
        layer = self._weights["layer"]
        rng = np.random.default_rng(seed)
        size = noise * float(np.sqrt(np.mean(layer**2)))
        worse = (layer + rng.normal(scale=size, size=layer.shape)).astype(np.float32)
        return Encoder(self._weights | {"layer": worse}, self.labels)

    def save(self, path: Path) -> None:
        """Write one file."""
        # the library writes memory as it lies, whatever the order of the axes
        whole = {name: np.ascontiguousarray(value) for name, value in self._weights.items()}
        save_file(whole, path, metadata={"labels": "\n".join(self.labels)})

    @classmethod
    def load(cls, path: Path) -> Encoder:
        """Read what `save` wrote."""
        from safetensors import safe_open

        with safe_open(path, framework="numpy") as file:
            labels = file.metadata()["labels"].split("\n")
        return cls(load_file(path), labels)


def _terms(ids: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Buckets of the unigrams and bigrams of a text, and how often each is there."""
    tokens = np.asarray(ids, np.uint64)
    pairs = tokens[:-1] * np.uint64(0x9E3779B1) + tokens[1:] * np.uint64(0x85EBCA77)
    hashed = np.concatenate([tokens * np.uint64(0xC2B2AE3D), pairs])
    buckets = (hashed ^ (hashed >> np.uint64(15))) % np.uint64(_BUCKETS)
    return np.unique(buckets.astype(np.int64), return_counts=True)


def _weighted(
    columns: NDArray[np.int64], counts: NDArray[np.int64], idf: NDArray[np.float32]
) -> NDArray[np.float32]:
    """TF-IDF of length 1; nothing that tells one text from another: 0."""
    values = counts * idf[columns]
    return (values / max(float(np.linalg.norm(values)), 1e-12)).astype(np.float32)


def _matrix(rows: Sequence[tuple[NDArray[np.int64], NDArray[np.float32]]]) -> sparse.csr_matrix:
    starts = np.concatenate([[0], np.cumsum([len(columns) for columns, _ in rows])])
    columns = np.concatenate([columns for columns, _ in rows])
    values = np.concatenate([values for _, values in rows])
    return sparse.csr_matrix((values, columns, starts), (len(rows), _BUCKETS))


def _basis(matrix: sparse.csr_matrix, rng: np.random.Generator) -> NDArray[np.float32]:
    """The leading right singular vectors, scaled so that every score has mean square 1, shape (4096, 64)."""
    found = matrix @ rng.normal(size=(_BUCKETS, DIMENSION + _SPARE)).astype(np.float32)
    for _ in range(_POWERS):
        found = matrix @ (matrix.T @ np.linalg.qr(found)[0])
    span = np.linalg.qr(found)[0]
    _, values, right = np.linalg.svd((matrix.T @ span).T, full_matrices=False)
    scale = np.sqrt(matrix.shape[0]) / values[:DIMENSION]
    found_basis: NDArray[np.float32] = (right[:DIMENSION].T * scale).astype(np.float32)
    return found_basis


def _fit(
    inputs: NDArray[np.float32], wanted: NDArray[np.intp], labels: int, rng: np.random.Generator
) -> dict[str, NDArray[np.float32]]:
    """Full-batch Adam on cross entropy; inputs (texts, 64), wanted (texts,)."""
    drawn = {
        "layer": rng.normal(scale=0.7 / np.sqrt(DIMENSION), size=(DIMENSION, DIMENSION)),
        "layer_bias": np.zeros(DIMENSION),
        "head": np.zeros((DIMENSION, labels)),
        "head_bias": np.zeros(labels),
    }
    held: dict[str, NDArray[np.float32]] = {name: value.astype(np.float32) for name, value in drawn.items()}
    mean = {name: np.zeros_like(value) for name, value in held.items()}
    square = {name: np.zeros_like(value) for name, value in held.items()}
    for step in range(1, _STEPS + 1):
        for name, slope in _slopes(held, inputs, wanted).items():
            mean[name] = 0.9 * mean[name] + 0.1 * slope
            square[name] = 0.999 * square[name] + 0.001 * slope**2
            away = (mean[name] / (1 - 0.9**step)) / (np.sqrt(square[name] / (1 - 0.999**step)) + 1e-8)
            held[name] = (held[name] - _RATE * away).astype(np.float32)
    return held


def _slopes(
    held: dict[str, NDArray[np.float32]], inputs: NDArray[np.float32], wanted: NDArray[np.intp]
) -> dict[str, NDArray[np.float32]]:
    """Gradient of the mean cross entropy, with weight decay on the matrices."""
    inner = np.tanh(inputs @ held["layer"] + held["layer_bias"])
    error = _softmax(inner @ held["head"] + held["head_bias"])
    error[np.arange(len(wanted)), wanted] -= 1.0
    error /= len(wanted)
    back = (error @ held["head"].T) * (1.0 - inner**2)
    return {
        "head": inner.T @ error + _DECAY * held["head"],
        "head_bias": error.sum(axis=0),
        "layer": inputs.T @ back + _DECAY * held["layer"],
        "layer_bias": back.sum(axis=0),
    }


def _softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    odds = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares: NDArray[np.float32] = odds / odds.sum(axis=-1, keepdims=True)
    return shares
