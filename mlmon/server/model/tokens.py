"""A model's tokenizer: exactly the one of its tokenizer.json, and the ids of its special tokens."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from mlmon.errors import ConfigError
from mlmon.server.model.files import read_json

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["LoadedTokenizer", "SpecialIds", "load_tokenizer"]

#: For each role: keys of tokenizer_config.json, then contents that are usual.
_ROLES = {
    "mask": (("mask_token",), ("[MASK]", "<mask>")),
    "cls": (("cls_token", "bos_token"), ("[CLS]", "<s>")),
    "sep": (("sep_token", "eos_token"), ("[SEP]", "</s>")),
    "pad": (("pad_token",), ("[PAD]", "<pad>")),
    "unk": (("unk_token",), ("[UNK]", "<unk>")),
}
#: Tokenizers without a limit say 10^30.
_NO_LIMIT = 1 << 24


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """Ids of the special tokens; only a mask is required."""

    mask: int
    cls: int | None
    sep: int | None
    pad: int | None
    unk: int | None


@dataclass(frozen=True, slots=True)
class LoadedTokenizer:
    """A tokenizer.

    Attributes:
        tokenizer: neither pads nor truncates.
        special: its special tokens.
        digest: SHA-256 of tokenizer.json, hex: what an event's `tokenizer_digest` carries. Where a model
            comes with a vocabulary only, of the tokenizer.json that `tokenizer.save()` writes.
        max_length: what it says of the longest sequence, special tokens included; None where it says nothing.
    """

    tokenizer: Tokenizer
    special: SpecialIds
    digest: str
    max_length: int | None


def load_tokenizer(directory: Path) -> LoadedTokenizer:
    """Read a model's tokenizer.

    Raises:
        ConfigError: there is none that can be read, or it has no mask token.
    """
    path = directory / "tokenizer.json"
    data = path.read_bytes() if path.is_file() else _converted(directory)
    try:
        tokenizer: Tokenizer = Tokenizer.from_buffer(data)
    except Exception as error:  # the library raises plain Exception for a file that it cannot read
        raise ConfigError(f"tokenizer file {str(path)!r} is not one: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    settings = read_json(directory / "special_tokens_map.json") | read_json(
        directory / "tokenizer_config.json"
    )
    longest = settings.get("model_max_length")
    return LoadedTokenizer(
        tokenizer,
        _special(tokenizer, settings, directory),
        hashlib.sha256(data).hexdigest(),
        longest if isinstance(longest, int) and 0 < longest < _NO_LIMIT else None,
    )


def _special(tokenizer: Tokenizer, settings: dict[str, Any], directory: Path) -> SpecialIds:
    ids = {role: _find(tokenizer, settings, *names) for role, names in _ROLES.items()}
    mask = ids.pop("mask")
    if mask is None:
        raise ConfigError(
            f"the tokenizer in {str(directory)!r} has no mask token: expected mask_token "
            "in tokenizer_config.json to name a token of the vocabulary; only masked language models can be "
            "served"
        )
    return SpecialIds(mask=mask, **ids)


def _find(
    tokenizer: Tokenizer, settings: dict[str, Any], keys: tuple[str, ...], usual: tuple[str, ...]
) -> int | None:
    named = [settings.get(key) for key in keys]
    contents = [value.get("content") if isinstance(value, dict) else value for value in named]
    for content in (*contents, *usual):
        found: int | None = tokenizer.token_to_id(content) if isinstance(content, str) else None
        if found is not None:
            return found
    return None


def _converted(directory: Path) -> bytes:
    """The tokenizer.json of a model that comes with a vocabulary only."""
    from transformers import AutoTokenizer

    try:
        slow = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        text: str = slow.backend_tokenizer.to_str(pretty=True)
    except Exception as error:  # vocabularies fail in many ways, missing packages among them
        raise ConfigError(
            f"there is no tokenizer.json in {str(directory)!r}, and none can be made of what is there: "
            f"{error}; make it where the vocabulary can be read: "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        ) from error
    return text.encode()
