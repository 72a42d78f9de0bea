"""/fill-mask, /embed, /score and /tokenize: what the transformers pipelines give, over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlmon.server.refusals import Refusal, RefusalError
from mlmon.server.web.bodies import TokenizedToken
from mlmon.server.web.replies import json_reply
from mlmon.server.web.serving import Inputs, reply_to
from mlmon.server.work.embed import Embed, EmbedOptions
from mlmon.server.work.fill_mask import FillMask, FillOptions, target_ids
from mlmon.server.work.masking import Masking
from mlmon.server.work.score import Score, ScoreOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.responses import Response
    from tokenizers import Encoding

    from mlmon.server.web.bodies import EmbedBody, FillMaskBody, ScoreBody, TokenizeBody
    from mlmon.server.web.serving import Call, Serving

__all__ = ["checked_targets", "checked_top_k", "embed", "fill_mask", "score", "tokenize"]


def _inputs(given: str | list[str]) -> Inputs:
    return Inputs(texts=[given] if isinstance(given, str) else given)


def checked_top_k(serving: Serving, top_k: int) -> int:
    """`top_k`, if the server gives so many.

    Raises:
        RefusalError: it is more.
    """
    if top_k > serving.limits.top_k:
        raise RefusalError(
            Refusal.INVALID,
            f"top_k of at most {serving.limits.top_k} (limits.top_k)",
            f"{top_k}",
            "ask for fewer answers",
        )
    return top_k


def checked_targets(serving: Serving, call: Call, targets: Sequence[str]) -> tuple[int, ...]:
    """Ids of targets; the answer's headers say how many were no tokens.

    Raises:
        RefusalError: there are too many, or none of them has a token.
    """
    if len(targets) > serving.limits.targets:
        raise RefusalError(
            Refusal.TOO_LARGE,
            f"at most {serving.limits.targets} targets (limits.targets)",
            f"{len(targets)}",
            "name fewer",
        )
    ids, inexact = target_ids(serving.setting.texts, targets)
    if inexact:
        call.told = {"x-mlmon-inexact-targets": str(len(inexact))}
    return ids


async def fill_mask(serving: Serving, call: Call, body: FillMaskBody) -> Response:
    """The most probable tokens for every mask."""
    asked = body.parameters
    top_k = checked_top_k(serving, asked.top_k)
    targets = [asked.targets] if isinstance(asked.targets, str) else asked.targets
    ids = None if targets is None else checked_targets(serving, call, targets)
    options = FillOptions(top_k, ids)
    task, seen = await serving.infer(
        call,
        _inputs(body.inputs),
        serving.long(asked.long, asked.stride),
        lambda texts: FillMask(serving.setting, texts, options),
    )
    found = await serving.compute(call, task.answer, seen)
    call.note.sequence = found[0][0][0].sequence
    answers = [masks[0] if len(masks) == 1 else masks for masks in found]
    return reply_to(serving, call, answers[0] if isinstance(body.inputs, str) else answers)


async def embed(serving: Serving, call: Call, body: EmbedBody) -> Response:
    """A vector for every text."""
    asked = body.parameters
    options = EmbedOptions(asked.pooling, asked.normalize)
    task, seen = await serving.infer(
        call,
        _inputs(body.inputs),
        serving.long(asked.long, asked.stride),
        lambda texts: Embed(serving.setting, texts, options),
    )
    return reply_to(serving, call, task.answer(seen).tolist())


async def score(serving: Serving, call: Call, body: ScoreBody) -> Response:
    """A pseudo-log-likelihood, or the accuracy on masked tokens, of every text."""
    asked = body.parameters
    masking = Masking(asked.mask_ratio, asked.replacement, asked.seed, asked.repeats)
    options = ScoreOptions(asked.method, masking, asked.per_token)
    task, seen = await serving.infer(
        call,
        _inputs(body.inputs),
        serving.long(asked.long, asked.stride),
        lambda texts: Score(serving.setting, texts, options),
        words=asked.method == "pll-word-l2r",
    )
    return reply_to(serving, call, await serving.compute(call, task.answer, seen))


async def tokenize(serving: Serving, call: Call, body: TokenizeBody) -> Response:
    """The tokens of every text. The device has nothing to do with it, so this is no event."""
    call.note.task = None
    inputs = _inputs(body.inputs)
    if len(inputs) > serving.limits.inputs:
        raise RefusalError(
            Refusal.TOO_LARGE,
            f"at most {serving.limits.inputs} texts in a request (limits.inputs)",
            f"{len(inputs)}",
            "send them in several requests",
        )
    call.long = inputs.long

    def tokens() -> list[list[TokenizedToken]]:
        add = body.parameters.add_special_tokens
        encodings = serving.setting.texts.tokenizer.encode_batch(list(inputs.texts), add_special_tokens=add)
        return [_tokens(encoding) for encoding in encodings]

    return json_reply(await serving.compute(call, tokens), headers=serving.headers)


def _tokens(encoding: Encoding) -> list[TokenizedToken]:
    columns: list[Sequence[Any]] = [
        encoding.ids,
        encoding.tokens,
        encoding.offsets,
        encoding.word_ids,
        encoding.special_tokens_mask,
    ]
    return [
        TokenizedToken(token, text, start, stop, word, bool(special))
        for token, text, (start, stop), word, special in zip(*columns, strict=True)
    ]
