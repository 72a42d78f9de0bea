"""What a `tokenizer.json` says: its digest, and the table by which token ids are counted.

The file is read as what it is, JSON in the format of HF `tokenizers`, without that library: the sidecar needs
the vocabulary and a few settings, not the encoder.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from mlmon.errors import ConfigError
from mlmon.stats.tokens import TokenTable, Vocabulary, WordRule

__all__ = ["TokenizerInfo", "load_tokenizer", "parse_tokenizer"]

_MASK = re.compile(r"\W*mask\W*", re.IGNORECASE)
_METASPACE = "\N{LOWER ONE EIGHTH BLOCK}"


@dataclass(frozen=True, slots=True)
class TokenizerInfo:
    """A tokenizer file.

    Attributes:
        digest: SHA-256 of the file's bytes, hex: what `sha256sum tokenizer.json` prints.
        table: counts by token ids.
        vocabulary: what the table was made from.
    """

    digest: str
    table: TokenTable
    vocabulary: Vocabulary


class _Added(msgspec.Struct):
    id: int
    content: str
    special: bool = False


class _Model(msgspec.Struct):
    vocab: dict[str, int] | list[tuple[str, float]]
    type: str | None = None
    unk_token: str | None = None
    unk_id: int | None = None
    byte_fallback: bool = False
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None


class _File(msgspec.Struct):
    model: _Model
    added_tokens: list[_Added] = []
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    post_processor: dict[str, Any] | None = None


def load_tokenizer(path: str | Path) -> TokenizerInfo:
    """Read a `tokenizer.json`.

    Raises:
        ConfigError: the file cannot be read, or is no tokenizer; the message names it.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"tokenizer file {str(path)!r} cannot be read: {error.strerror}") from error
    return parse_tokenizer(data, str(path))


def parse_tokenizer(data: bytes, name: str = "tokenizer.json") -> TokenizerInfo:
    """Read the bytes of a `tokenizer.json`; `name` is only for messages.

    Raises:
        ConfigError: the bytes are no tokenizer.
    """
    try:
        vocabulary = _vocabulary(msgspec.json.decode(data, type=_File))
        table = TokenTable(vocabulary)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"tokenizer file {name!r} is not one: {error}; expected the tokenizer.json of HF tokenizers, "
            "as written by Tokenizer.save()"
        ) from error
    return TokenizerInfo(hashlib.sha256(data).hexdigest(), table, vocabulary)


def _vocabulary(file: _File) -> Vocabulary:
    model = file.model
    if isinstance(model.vocab, dict):
        tokens = dict(model.vocab)
    else:
        tokens = {token: index for index, (token, _) in enumerate(model.vocab)}
    tokens |= {added.content: added.id for added in file.added_tokens}
    unknown = model.unk_id if model.unk_token is None else tokens.get(model.unk_token)
    special = {added.id: added.content for added in file.added_tokens if added.special}
    masks = frozenset(i for i, content in special.items() if _MASK.fullmatch(content))
    control = frozenset(special) | _template_ids(file.post_processor)
    rule, affix = _word_rule(file)
    return Vocabulary(
        tokens=tokens,
        control=control - masks - {unknown},
        unknown=None if _covers_all_bytes(file, tokens) else unknown,
        masks=masks,
        byte_fallback=model.byte_fallback,
        rule=rule,
        affix=affix,
        alone=frozenset(added.id for added in file.added_tokens if not added.special),
    )


def _template_ids(post_processor: dict[str, Any] | None) -> frozenset[int]:
    """Ids that the post-processor puts around an input."""
    if post_processor is None:
        return frozenset()
    kind = post_processor.get("type")
    if kind == "TemplateProcessing":
        special = post_processor.get("special_tokens", {}).values()
        return frozenset(int(i) for entry in special for i in entry["ids"])
    if kind in ("BertProcessing", "RobertaProcessing"):
        return frozenset(int(post_processor[key][1]) for key in ("sep", "cls"))
    if kind == "Sequence":
        return frozenset().union(*map(_template_ids, post_processor.get("processors", [])))
    return frozenset()


def _steps(component: dict[str, Any] | None, children: str) -> list[dict[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, sequences flattened."""
    if component is None:
        return []
    if component.get("type") == "Sequence":
        return [step for child in component.get(children, []) for step in _steps(child, children)]
    return [component]


def _word_rule(file: _File) -> tuple[WordRule, str]:
    model = file.model
    if model.type == "WordLevel":
        return WordRule.WHOLE, ""
    # files of old versions leave the model's type out; only WordPiece requires this prefix
    if model.continuing_subword_prefix:
        return WordRule.PREFIX, model.continuing_subword_prefix
    if model.end_of_word_suffix:
        return WordRule.SUFFIX, model.end_of_word_suffix
    splits = _steps(file.pre_tokenizer, "pretokenizers")
    if not splits:
        # SentencePiece as Llama has it: the normalizer writes the marks, nothing splits
        replaces = [step for step in _steps(file.normalizer, "normalizers") if step.get("type") == "Replace"]
        marked = any(step.get("content") == _METASPACE for step in replaces)
        return (WordRule.METASPACE, "") if marked else (WordRule.NONE, "")
    last = splits[-1]
    always = last.get("prepend_scheme", "always") == "always" and last.get("add_prefix_space", True)
    if last.get("type") == "Metaspace" and (always or len(splits) == 1):
        return WordRule.METASPACE, ""
    return WordRule.NONE, ""


def _covers_all_bytes(file: _File, tokens: dict[str, int]) -> bool:
    """Whether this is byte-level BPE whose vocabulary has every byte, so that nothing can be unknown."""
    steps = _steps(file.pre_tokenizer, "pretokenizers") + _steps(file.normalizer, "normalizers")
    return any(step.get("type") == "ByteLevel" for step in steps) and _byte_letters() <= tokens.keys()


def _byte_letters() -> set[str]:
    """The 256 letters of byte-level BPE: printable Latin-1 as itself, the other bytes above 255."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return {chr(code) for code in printable} | {chr(0x100 + i) for i in range(256 - len(printable))}
