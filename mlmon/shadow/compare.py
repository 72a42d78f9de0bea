"""One request's answer beside the reference's: what an evaluation event says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlmon.events.event import Event
from mlmon.shadow.clients import Answer, label_of
from mlmon.shadow.echo import carries
from mlmon.shadow.ranking import (
    Ranked,
    kl_divergence,
    probability_differences,
    rank_biased_overlap,
    topk_overlap,
)
from mlmon.shadow.similarity import cosines

if TYPE_CHECKING:
    from mlmon.attach.mirror_record import MirrorRecord
    from mlmon.shadow.clients import MaskedCount

__all__ = ["Comparison", "compare", "evaluation", "given"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two answers to one text have in common; None where it cannot be told. See `ranking`,
    `similarity`."""

    agreement: int | None = None
    topk_overlap: float | None = None
    rank_biased_overlap: float | None = None
    probability_difference: float | None = None
    mean_difference: float | None = None
    kl_divergence: float | None = None
    echo: int | None = None
    embedding_cosine: float | None = None

    @property
    def says_anything(self) -> bool:
        """Whether there is an evaluation at all."""
        return any(value is not None for value in (self.agreement, self.echo, self.embedding_cosine))


def given(record: MirrorRecord) -> Answer:
    """The answer that was mirrored with a request; empty where none was."""
    labels = record.top_labels or ([record.prediction] if record.prediction is not None else [])
    scores = record.top_scores or ([record.confidence] if record.confidence is not None else [])
    ranked = Ranked.of([label_of(label) for label in labels], scores[: len(labels)])
    embedding = None if record.embedding is None else np.asarray(record.embedding, np.float64)
    return Answer((ranked,) if labels else (), record.sequence, embedding)


def compare(text: str, answer: Answer, reference: Answer, top_k: int) -> Comparison:
    """Compare what production answered with what the reference did.

    Of a text with several masks the first is compared, as its event speaks of the first.
    """
    a, b = answer.first, reference.first
    differences = probability_differences(a, b)
    echo = None if answer.sequence is None else carries(text, answer.sequence)
    cosine = None
    if answer.embedding is not None and reference.embedding is not None:
        one, other = answer.embedding[np.newaxis], reference.embedding[np.newaxis]
        found = float(cosines(one, other)[0]) if one.shape == other.shape else float("nan")
        cosine = None if np.isnan(found) else found
    return Comparison(
        agreement=int(a.labels[0] == b.labels[0]) if a.labels and b.labels else None,
        topk_overlap=topk_overlap(a.labels, b.labels, top_k),
        rank_biased_overlap=rank_biased_overlap(a.labels[:top_k], b.labels[:top_k]),
        probability_difference=differences[0] if differences else None,
        mean_difference=differences[1] if differences else None,
        kl_divergence=kl_divergence(a, b),
        echo=None if echo is None else int(echo),
        embedding_cosine=cosine,
    )


def evaluation(
    record: MirrorRecord, found: Comparison, reference: str, masked: MaskedCount | None, now_us: int
) -> Event:
    """The event that says of a request how the reference answered it: numbers and names, no text."""
    return Event(
        event_id=record.event_id,
        event_time=max(now_us, record.event_time),
        request_time=record.event_time,
        service=record.service,
        model_name=record.model_name,
        model_version=record.model_version,
        deployment=record.deployment,
        segments=record.segments,
        task=record.task,
        reference=reference,
        agreement=found.agreement,
        topk_overlap=found.topk_overlap,
        rank_biased_overlap=found.rank_biased_overlap,
        probability_difference=found.probability_difference,
        kl_divergence=found.kl_divergence,
        echo=found.echo,
        embedding_cosine=found.embedding_cosine,
        labelled_masked_tokens=None if masked is None else masked.tokens,
        right_masked_tokens=None if masked is None else masked.right,
        sampling_weight=record.sampling_weight,
    )
