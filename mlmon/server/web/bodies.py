"""What the server's own routes and OpenAI's take and give. The OpenAPI document is made from these types."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from mlmon.server.config import LongInputs, Pooling  # noqa: TC001 - msgspec reads the annotation
from mlmon.server.work.fill_mask import Candidate
from mlmon.server.work.masking import Replacement  # noqa: TC001 - msgspec reads the annotation
from mlmon.server.work.score import LikelihoodScore, MaskedScore, Method  # noqa: TC001 - msgspec reads the annotation

__all__ = [
    "Candidate",
    "EmbedBody",
    "EmbedParameters",
    "EmbeddingsBody",
    "EmbeddingsReply",
    "ErrorReply",
    "FillMaskBody",
    "FillMaskParameters",
    "InfoReply",
    "LikelihoodScore",
    "MaskedScore",
    "ModelsReply",
    "OpenAIErrorReply",
    "ScoreBody",
    "ScoreParameters",
    "StateReply",
    "TokenizeBody",
    "TokenizeParameters",
    "TokenizedToken",
]

_Texts = Annotated[list[str], msgspec.Meta(min_length=1)]
LongField = Annotated[
    LongInputs | None,
    msgspec.Meta(
        description="What becomes of a text longer than the model takes; not set: as the server says."
    ),
]
StrideField = Annotated[
    Annotated[int, msgspec.Meta(ge=0, le=100_000)] | None,
    msgspec.Meta(description="Tokens that neighbouring windows share; not set: a quarter of a window."),
]
TargetsField = Annotated[
    str | Annotated[list[str], msgspec.Meta(min_length=1)] | None,
    msgspec.Meta(description="Only these tokens are answers; a word of several tokens stands for its first."),
]
_TokenId = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class FillMaskParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of fill-mask."""

    top_k: Annotated[int, msgspec.Meta(ge=1, le=1_000_000, description="Answers for each mask.")] = 5
    targets: TargetsField = None
    long: LongField = None
    stride: StrideField = None


class FillMaskBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Texts with masks."""

    inputs: Annotated[str | _Texts, msgspec.Meta(description="A text with masks, or several.")]
    parameters: FillMaskParameters = FillMaskParameters()


class EmbedParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of embeddings."""

    pooling: Annotated[Pooling, msgspec.Meta(description="mean of all tokens, or the first token.")] = "mean"
    normalize: Annotated[bool, msgspec.Meta(description="Whether vectors have length 1.")] = True
    long: LongField = None
    stride: StrideField = None


class EmbedBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Texts to embed."""

    inputs: Annotated[str | _Texts, msgspec.Meta(description="A text, or several.")]
    parameters: EmbedParameters = EmbedParameters()


class ScoreParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of scores."""

    method: Annotated[
        Method,
        msgspec.Meta(
            description="pll: pseudo-log-likelihood; pll-word-l2r: with the later tokens of a word "
            "masked too; "
            "masked: accuracy and loss on a share of masked tokens."
        ),
    ] = "pll"
    per_token: Annotated[bool, msgspec.Meta(description="Whether each scored token is told.")] = False
    seed: Annotated[
        int, msgspec.Meta(ge=-(2**63), le=2**63 - 1, description="Of the masks, for the method masked.")
    ] = 0
    mask_ratio: Annotated[
        float,
        msgspec.Meta(gt=0, le=1, description="Share of the tokens that is masked, for the method masked."),
    ] = 0.15
    replacement: Annotated[
        Replacement,
        msgspec.Meta(
            description="mask: every one becomes the mask; bert: 80 % do, 10 % become another token, 10 "
            "% stay."
        ),
    ] = "bert"
    repeats: Annotated[
        int, msgspec.Meta(ge=1, le=100, description="Independent draws of masks, for the method masked.")
    ] = 1
    long: LongField = None
    stride: StrideField = None


class ScoreBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Texts to score."""

    inputs: Annotated[str | _Texts, msgspec.Meta(description="A text, or several.")]
    parameters: ScoreParameters = ScoreParameters()


class TokenizeParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of tokenize."""

    add_special_tokens: bool = True


class TokenizeBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Texts to tokenize."""

    inputs: Annotated[str | _Texts, msgspec.Meta(description="A text, or several.")]
    parameters: TokenizeParameters = TokenizeParameters()


class TokenizedToken(msgspec.Struct, frozen=True, gc=False):
    """A token: its characters of the text are `start` to `stop`, its word is the `word`th."""

    id: int
    token: str
    start: int
    stop: int
    word: int | None
    special: bool


class EmbeddingsBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """OpenAI's request for embeddings."""

    input: Annotated[
        str
        | Annotated[
            list[str | _TokenId | Annotated[list[_TokenId], msgspec.Meta(min_length=1)]],
            msgspec.Meta(min_length=1),
        ],
        msgspec.Meta(description="A text, texts, the token ids of a text, or those of several; not mixed."),
    ]
    model: Annotated[str | None, msgspec.Meta(description="Must be the model that is served.")] = None
    encoding_format: Annotated[
        Literal["float", "base64"], msgspec.Meta(description="base64: of little-endian float32.")
    ] = "float"
    dimensions: Annotated[
        int | None, msgspec.Meta(description="Not supported: the model has one number of dimensions.")
    ] = None
    user: Annotated[str | None, msgspec.Meta(description="Ignored.")] = None


class Embedding(msgspec.Struct, frozen=True):
    """One vector: numbers, or base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(msgspec.Struct, frozen=True):
    """Tokens that went through the model."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsReply(msgspec.Struct, frozen=True):
    """OpenAI's answer."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class ModelCard(msgspec.Struct, frozen=True):
    """A model as OpenAI lists it."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelsReply(msgspec.Struct, frozen=True):
    """OpenAI's list of models: the one there is."""

    object: Literal["list"]
    data: list[ModelCard]


class ErrorReply(msgspec.Struct, frozen=True):
    """Why a request was not answered."""

    error: str
    error_type: str
    expected: str
    got: str
    remedy: str


class OpenAIError(msgspec.Struct, frozen=True):
    """The same as OpenAI tells it."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIErrorReply(msgspec.Struct, frozen=True):
    """The same as OpenAI tells it."""

    error: OpenAIError


class StateReply(msgspec.Struct, frozen=True):
    """Whether the server lives, or is ready."""

    ok: bool


class InfoReply(msgspec.Struct, frozen=True):
    """What is served, by what, and how much a request may ask for."""

    model: dict[str, Any]
    limits: dict[str, Any]
    batch: dict[str, Any]
    queue: dict[str, dict[str, int]]
    server: dict[str, str]
