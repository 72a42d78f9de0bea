"""How each kind of server is asked, and what its answers mean.

A client takes some texts of one task and gives an answer to each, in order. It knows paths and shapes; the
wire knows HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import numpy as np

from mlmon.shadow.ranking import Ranked
from mlmon.shadow.wire import ReplayError, Wire

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mlmon.shadow.config import EndpointConfig

__all__ = ["Answer", "Client", "MaskedCount", "client_for", "label_of"]

EMBEDDING = "embedding"


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a server said of one text.

    Attributes:
        rankings: labels and probabilities, one for each mask; one for a classification.
        sequence: the text that it gives back.
        embedding: shape (d,).
    """

    rankings: tuple[Ranked, ...] = ()
    sequence: str | None = None
    embedding: NDArray[np.float64] | None = None

    @property
    def first(self) -> Ranked:
        """The ranking of the first mask; empty where there is none."""
        return self.rankings[0] if self.rankings else Ranked(())


@dataclass(frozen=True, slots=True)
class MaskedCount:
    """How many masked tokens of a text were recovered: tokens, right ones, and Σ -log p in nats."""

    tokens: int
    right: int
    loss: float


class Client(Protocol):
    """One server. Any number of threads may ask."""

    def ask(self, texts: Sequence[str], task: str, top_k: int) -> list[Answer]:
        """An answer to each text; raises ReplayError where there is none."""
        ...

    def masked(self, texts: Sequence[str], seed: int) -> list[MaskedCount]:
        """Masked tokens recovered, where the server masks by itself."""
        ...

    def close(self) -> None:
        """Free connections."""
        ...


def client_for(endpoint: EndpointConfig, *, lane: bool = True) -> Client:
    """The client of an endpoint's kind.

    Args:
        endpoint: whom to ask.
        lane: whether requests say that they are replays: mlmon's server lets interactive requests go first,
            and the tap counts them as the shadow deployment's.
    """
    wire = Wire(endpoint, {"x-mlmon-lane": "shadow"} if lane else {})
    match endpoint.kind:
        case "mlmon":
            return _Mlmon(wire)
        case "hf":
            return _HuggingFace(wire)
        case "oip":
            return _OpenInference(wire, endpoint)
        case _:
            return _OpenAi(wire, endpoint)


def label_of(text: str) -> str:
    """A token as it is compared: without the blanks and marks by which tokenizers tell a word's beginning.

    Example:
        >>> label_of(" like"), label_of("Ġlike"), label_of("▁like"), label_of(" ")
        ('like', 'like', 'like', ' ')
    """
    return text.strip().lstrip("\u0120\u2581").strip() or text


class _Base:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def masked(self, texts: Sequence[str], seed: int) -> list[MaskedCount]:  # noqa: ARG002 - protocol
        raise ReplayError("refused", "this server masks nothing by itself")

    def close(self) -> None:
        self._wire.close()


class _HuggingFace(_Base):
    """`{"inputs": [...], "parameters": {...}}` to lists of `{"score", "token_str" or "label",
    "sequence"}`."""

    def ask(self, texts: Sequence[str], task: str, top_k: int) -> list[Answer]:
        if task == EMBEDDING:
            return _embeddings(self._wire.post("", {"inputs": list(texts)}), len(texts))
        body = {"inputs": list(texts), "parameters": {"top_k": top_k}}
        return _answers(self._wire.post("", body), len(texts))


class _Mlmon(_Base):
    """`mlmon serve`: /fill-mask, /embed, /score."""

    def ask(self, texts: Sequence[str], task: str, top_k: int) -> list[Answer]:
        if task == EMBEDDING:
            return _embeddings(self._wire.post("/embed", {"inputs": list(texts)}), len(texts))
        body = {"inputs": list(texts), "parameters": {"top_k": top_k}}
        return _answers(self._wire.post("/fill-mask", body), len(texts))

    def masked(self, texts: Sequence[str], seed: int) -> list[MaskedCount]:
        """Seeded masks of the server's own, equal on every server with the same tokenizer."""
        body = {"inputs": list(texts), "parameters": {"method": "masked", "seed": seed}}
        found = self._wire.post("/score", body)
        try:
            counts = [
                MaskedCount(
                    one["masked_tokens"], one["right_tokens"], one["masked_tokens"] * (one["loss"] or 0.0)
                )
                for one in found
            ]
        except (KeyError, TypeError) as error:
            raise _unlike("/score", error) from None
        return _as_many(counts, len(texts))


class _OpenInference(_Base):
    """Open Inference Protocol V2; outputs of `mlmon serve`, or JSON texts as MLServer's HuggingFace
    runtime has."""

    def __init__(self, wire: Wire, endpoint: EndpointConfig) -> None:
        super().__init__(wire)
        version = f"/versions/{endpoint.version}" if endpoint.version else ""
        self._path = f"/v2/models/{endpoint.model}{version}/infer"
        self._input = endpoint.input_name

    def ask(self, texts: Sequence[str], task: str, top_k: int) -> list[Answer]:  # noqa: ARG002 - protocol
        tensor = {"name": self._input, "shape": [len(texts)], "datatype": "BYTES", "data": list(texts)}
        reply = self._wire.post(self._path, {"inputs": [tensor]})
        try:
            outputs = {output["name"]: output["data"] for output in reply["outputs"]}
            if "mask_text" in outputs:
                return _tensors(outputs, len(texts))
            data = next(iter(outputs.values()))
            items = [msgspec.json.decode(item) if isinstance(item, str) else item for item in data]
        except (KeyError, TypeError, StopIteration, IndexError, msgspec.DecodeError) as error:
            raise _unlike(self._path, error) from None
        if items and all(isinstance(item, dict) for item in items):
            # one text: its answers; several: those of each, flattened
            each = len(items) // len(texts)
            if each * len(texts) != len(items):
                raise _unlike(self._path, ValueError(f"{len(items)} answers to {len(texts)} texts"))
            items = [items[start : start + each] for start in range(0, len(items), each)]
        return _answers(items, len(texts))


class _OpenAi(_Base):
    """`/v1/embeddings`."""

    def __init__(self, wire: Wire, endpoint: EndpointConfig) -> None:
        super().__init__(wire)
        self._model = endpoint.model

    def ask(self, texts: Sequence[str], task: str, top_k: int) -> list[Answer]:  # noqa: ARG002 - protocol
        if task != EMBEDDING:
            raise ReplayError("refused", f"/v1/embeddings has no answers to {task}")
        reply = self._wire.post("/v1/embeddings", {"model": self._model, "input": list(texts)})
        try:
            rows = sorted(reply["data"], key=lambda row: row["index"])
            vectors = [row["embedding"] for row in rows]
        except (KeyError, TypeError) as error:
            raise _unlike("/v1/embeddings", error) from None
        return _embeddings(vectors, len(texts))


def _answers(found: Any, count: int) -> list[Answer]:
    """Answers out of what pipelines return, which for one text, or one mask, drop a level of lists."""
    depth = _depth(found)
    if count == 1 and (depth == 1 or (depth == _OF_MASKS and len(found) > 1)):
        found = [found]
    try:
        return _as_many([_answer(one) for one in found], count)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _unlike("the route", error) from None


#: Lists around the answers of several texts with one mask each, or of one text with several masks.
_OF_MASKS = 2


def _depth(found: Any) -> int:
    depth = 0
    while isinstance(found, list) and found:
        depth, found = depth + 1, found[0]
    return depth


def _answer(one: Any) -> Answer:
    rows = [one] if isinstance(one, dict) else one
    masks = rows if rows and isinstance(rows[0], list) else [rows]
    rankings = tuple(_ranking(mask) for mask in masks)
    first = masks[0][0] if masks and masks[0] else {}
    sequence = first.get("sequence")
    return Answer(rankings, sequence if isinstance(sequence, str) else None)


def _ranking(rows: Any) -> Ranked:
    labels = [label_of(row["token_str"] if "token_str" in row else row["label"]) for row in rows]
    return Ranked.of(labels, [float(row["score"]) for row in rows])


def _tensors(outputs: dict[str, Any], count: int) -> list[Answer]:
    """The masks' tensors of `mlmon serve`."""
    rankings: list[list[Ranked]] = [[] for _ in range(count)]
    places = outputs["mask_text"]
    width = len(outputs["token"]) // len(places) if places else 0
    for number, place in enumerate(places):
        part = slice(number * width, (number + 1) * width)
        labels = [label_of(token) for token in outputs["token"][part]]
        rankings[place].append(Ranked.of(labels, outputs["score"][part]))
    return [Answer(tuple(found)) for found in rankings]


def _embeddings(found: Any, count: int) -> list[Answer]:
    try:
        vectors = [np.asarray(vector, np.float64) for vector in found]
    except (TypeError, ValueError) as error:
        raise _unlike("the embedding route", error) from None
    # feature extraction without pooling gives a vector for each token: their mean is compared
    pooled = [
        vector.reshape(-1, vector.shape[-1]).mean(axis=0) if vector.ndim > 1 else vector for vector in vectors
    ]
    if any(vector.ndim != 1 or not len(vector) or not np.isfinite(vector).all() for vector in pooled):
        raise _unlike("the embedding route", ValueError("no vectors of finite numbers"))
    return _as_many([Answer(embedding=vector) for vector in pooled], count)


def _as_many(found: list[Any], count: int) -> list[Any]:
    if len(found) != count:
        raise _unlike("the route", ValueError(f"{len(found)} answers to {count} texts"))
    return found


def _unlike(what: str, error: Exception) -> ReplayError:
    said = f"{type(error).__name__} {error}"
    return ReplayError("unreadable", f"{what} answered otherwise than its kind does: {said}")
