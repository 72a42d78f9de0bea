"""Mirrored requests to evaluations: replay to the reference, compare, and say what came of it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from mlmon.shadow.clients import EMBEDDING
from mlmon.shadow.compare import compare, given
from mlmon.shadow.echo import MASKS, carries
from mlmon.shadow.masking import mask_word, recovered
from mlmon.shadow.report import Outcome
from mlmon.shadow.wire import ReplayError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mlmon.attach.mirror_record import MirrorRecord
    from mlmon.shadow.clients import Answer, MaskedCount
    from mlmon.shadow.compare import Comparison
    from mlmon.shadow.config import ShadowConfig
    from mlmon.shadow.replay import Replay

    Masked = tuple[str, MaskedCount, float | None]

__all__ = ["Evaluator"]

_FILL_MASK = "fill-mask"


class Evaluator:
    """Compares production's answers with the reference's.

    Production's answer is the mirrored one. Where none was mirrored, or to look for mix-ups under
    concurrency, production may be asked again: then it is replayed to as well, and an answer that carries
    another text counts whichever of the two it is.

    A reference that gives another text back is no reference: such replays are void, and counted as
    `reference_mixed_up`.

    Args:
        config: what is compared.
        reference: the server to compare with.
        production: the server to ask again; None: the mirrored answers are all there is.
    """

    def __init__(self, config: ShadowConfig, reference: Replay, production: Replay | None = None) -> None:
        self._config = config
        self._reference = reference
        self._production = production

    def evaluate(self, records: Sequence[MirrorRecord]) -> list[Outcome]:
        """What came of each, in order. Blocks until all are answered or given up."""
        outcomes: dict[int, Outcome] = {}
        for task, places in _by_task(records).items():
            part = [records[place] for place in places]
            outcomes |= dict(zip(places, self._one_task(part, task), strict=True))
        found = [outcomes[place] for place in range(len(records))]
        if self._config.self_labels != "none" and self._production is not None:
            found = self._self_labelled(found, self._production)
        return found

    def _one_task(self, records: Sequence[MirrorRecord], task: str) -> list[Outcome]:
        texts = [record.text for record in records]
        references = self._reference.ask(texts, task, self._config.top_k)
        again: Sequence[Answer | ReplayError | None] = [None] * len(texts)
        if self._production is not None:
            again = self._production.ask(texts, task, self._config.top_k)
        vectors = self._vectors(records, task)
        return [
            self._outcome(record, reference, twin, vectors.get(place))
            for place, (record, reference, twin) in enumerate(zip(records, references, again, strict=True))
        ]

    def _vectors(self, records: Sequence[MirrorRecord], task: str) -> dict[int, Answer | ReplayError]:
        """The reference's embeddings of requests of another task whose events carry one."""
        if task == EMBEDDING:
            return {}
        places = [place for place, record in enumerate(records) if record.embedding is not None]
        if not places:
            return {}
        found = self._reference.ask([records[place].text for place in places], EMBEDDING, 1)
        return dict(zip(places, found, strict=True))

    def _outcome(
        self,
        record: MirrorRecord,
        reference: Answer | ReplayError,
        twin: Answer | ReplayError | None,
        vector: Answer | ReplayError | None,
    ) -> Outcome:
        if isinstance(reference, ReplayError):
            return Outcome(record, void=reference.reason)
        if reference.sequence is not None and carries(record.text, reference.sequence) is False:
            return Outcome(record, void="reference_mixed_up")
        if vector is not None and not isinstance(vector, ReplayError):
            reference = replace(reference, embedding=vector.embedding)
        answer = given(record)
        second = None if isinstance(twin, ReplayError) else twin
        if not answer.rankings and answer.embedding is None:
            if second is None:
                void = twin.reason if isinstance(twin, ReplayError) else "no_answer"
                return Outcome(record, void=void)
            answer = second
        found = compare(record.text, answer, reference, self._config.top_k)
        if second is not None and second.sequence is not None:
            found = _with_echo(found, carries(record.text, second.sequence))
        pair = None
        if answer.embedding is not None and reference.embedding is not None:
            pair = (answer.embedding, reference.embedding)
        return Outcome(record, found, pair=pair)

    def _self_labelled(self, outcomes: list[Outcome], production: Replay) -> list[Outcome]:
        places = [place for place, one in enumerate(outcomes) if one.comparison is not None]
        texts = [outcomes[place].record.text for place in places]
        servers = (("production", production), ("reference", self._reference))
        masked: dict[int, list[Masked]] = defaultdict(list)
        own = self._config.self_labels == "tokens"
        for name, server in servers:
            results = self._scored(server, texts) if own else self._recovered(server, texts)
            for place, result in zip(places, results, strict=True):
                if result is not None and result[0].tokens:
                    masked[place].append((name, *result))
        return [replace(one, masked=tuple(masked[place])) for place, one in enumerate(outcomes)]

    def _scored(self, server: Replay, texts: Sequence[str]) -> list[tuple[MaskedCount, None] | None]:
        """By the servers' own masks, which are equal for equal tokenizers."""
        found = server.masked(texts, self._config.seed)
        return [None if isinstance(one, ReplayError) else (one, None) for one in found]

    def _recovered(self, server: Replay, texts: Sequence[str]) -> list[tuple[MaskedCount, float] | None]:
        """By a masked word."""
        plans = [mask_word(text, self._config.seed, _mask_of(texts)) for text in texts]
        asked = [plan.text for plan in plans if plan is not None]
        answers = iter(server.ask(asked, _FILL_MASK, self._config.top_k))
        found: list[tuple[MaskedCount, float] | None] = []
        for plan in plans:
            answer = None if plan is None else next(answers)
            known = plan is not None and answer is not None and not isinstance(answer, ReplayError)
            found.append(recovered(plan, answer) if known else None)  # type: ignore[arg-type]
        return found


def _by_task(records: Iterable[MirrorRecord]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for place, record in enumerate(records):
        vectors_only = record.task == EMBEDDING or (
            record.task is None and record.embedding is not None and record.prediction is None
        )
        found.setdefault(EMBEDDING if vectors_only else _FILL_MASK, []).append(place)
    return found


def _with_echo(found: Comparison, second: bool | None) -> Comparison:
    if second is None:
        return found
    first = 1 if found.echo is None else found.echo
    return replace(found, echo=min(first, int(second)))


def _mask_of(texts: Sequence[str]) -> str:
    """The mask token that texts of this service have; BERT's where none has one."""
    return next((mask for mask in MASKS if any(mask in text for text in texts)), MASKS[0])
