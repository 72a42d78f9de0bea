"""What a text looks like to a tokenizer: characters, words, tokens, and how many are unknown, cut or masked.

Runs in the emitter's thread. The tokenizer is a copy of the server's own, so that neither disturbs the other;
long texts are encoded without the interpreter lock.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mlmon.errors import ConfigError
from mlmon.registry.tokenizers import parse_tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from tokenizers import Encoding, Tokenizer

__all__ = ["CharacterStatistics", "HfTokenizerStatistics", "TextStatistics"]

#: From this many characters on encoding is long enough to be worth letting go of the interpreter lock.
LONG_CHARACTERS = 2000


class TextStatistics(Protocol):
    """Measures the texts of one request."""

    def measure(self, texts: Sequence[str]) -> Mapping[str, Any]:
        """Values by name of an `Event` field, summed over the texts. Called from the emitter's thread."""
        ...


class CharacterStatistics:
    """Counts characters only: for services whose tokenizer is not at hand.

    Example:
        >>> CharacterStatistics().measure(["héllo", "you"])
        {'characters': 8}
    """

    def measure(self, texts: Sequence[str]) -> Mapping[str, Any]:
        """Unicode characters of all texts."""
        return {"characters": sum(map(len, texts))}


class HfTokenizerStatistics:
    """Counts with a tokenizer of the HF `tokenizers` library: WordPiece, BPE, Unigram, WordLevel.

    Fields: `characters` and `words` of the whole input; `tokens`, `unknown_tokens`, `continuation_tokens`,
    `byte_fallback_tokens`, `masked_tokens` of what is left after truncation; `truncated_tokens`; and
    `tokenizer_digest`. A count that the vocabulary cannot have is left out, such as unknown tokens of a
    byte-level BPE. Special tokens do not count, except the mask and the unknown token. Each text is
    truncated on its own, as the tokenizer would truncate a single input.

    Any number of threads may use it. Time: one encoding, plus about 20 µs a request.

    Args:
        tokenizer: path of a `tokenizer.json`, or a `tokenizers.Tokenizer`, which is copied.
        max_tokens: tokens a text is cut to, special ones included, where the server and not the tokenizer's
            file decides it; None takes the file's truncation setting.
        token_ids: whether events carry the token ids. They can be decoded into the text: off by default.

    Raises:
        ConfigError: the file cannot be read or is no tokenizer, or `max_tokens` is not positive.
        MissingExtraError: `tokenizers` is not installed.

    Attributes:
        digest: SHA-256 of the file. Of a `Tokenizer` object, of the file that its `save` would write: then
            settings changed since loading, such as truncation, change it too; so prefer the path.
    """

    def __init__(
        self, tokenizer: Tokenizer | str | Path, *, max_tokens: int | None = None, token_ids: bool = False
    ) -> None:
        from tokenizers import Tokenizer as Loaded  # heavy, and only needed here

        if max_tokens is not None and max_tokens < 1:
            raise ConfigError(f"max_tokens = {max_tokens}: expected a positive number of tokens, or None")
        if isinstance(tokenizer, str | Path):
            name = str(tokenizer)
            try:
                data = Path(tokenizer).read_bytes()
            except OSError as error:
                raise ConfigError(f"tokenizer file {name!r} cannot be read: {error.strerror}") from error
        else:
            name, data = "of the Tokenizer object", tokenizer.to_str(pretty=True).encode()
        self._table = parse_tokenizer(data, name).table
        self.digest = hashlib.sha256(data).hexdigest()
        try:
            self._tokenizer = Loaded.from_str(data.decode())
        except Exception as error:  # the library raises bare Exception
            raise ConfigError(f"tokenizer file {name!r} cannot be loaded: {error}") from error
        cut = self._tokenizer.truncation or {}
        length = max_tokens if max_tokens is not None else cut.get("max_length")
        special = self._tokenizer.num_special_tokens_to_add(False)
        self._keep = None if length is None else max(0, length - special)
        self._cut_left = cut.get("direction") == "left"
        self._with_ids = token_ids
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def measure(self, texts: Sequence[str]) -> dict[str, Any]:
        """Counts summed over the texts.

        Raises:
            TypeError: a text is not a string, or holds lone surrogates.
        """
        encodings = self._encode(texts)
        whole = [_array(encoding.ids) for encoding in encodings]
        told = self._table.tells_words
        words = None if told else [_array(encoding.word_ids) for encoding in encodings]
        spans = [self._kept(len(ids)) for ids in whole]
        kept = [ids[span] for ids, span in zip(whole, spans, strict=True)]
        fields = _sums(self._table.count(*_join(kept)))
        total = fields["tokens"]
        if words is None:
            if len(kept) and any(len(a) != len(b) for a, b in zip(kept, whole, strict=True)):
                counts = _sums(self._table.count(*_join(whole)))
                total, fields["words"] = counts["tokens"], counts["words"]
        else:
            total, fields["words"], fields["continuation_tokens"] = self._by_words(whole, words, spans)
        fields["truncated_tokens"] = total - fields["tokens"]
        fields["characters"] = sum(map(len, texts))
        fields["tokenizer_digest"] = self.digest
        if self._with_ids:
            fields["token_ids"] = [i for ids in kept for i in ids[~self._table.control_mask(ids)].tolist()]
        return fields

    def _encode(self, texts: Sequence[str]) -> list[Encoding]:
        if sum(map(len, texts)) < LONG_CHARACTERS:
            # holds the interpreter lock, but wakes no threads
            return [self._tokenizer.encode(text, add_special_tokens=False) for text in texts]
        # of the two that let go of it, the fast one knows no word numbers
        encode = (
            self._tokenizer.encode_batch_fast if self._table.tells_words else self._tokenizer.encode_batch
        )
        return encode(list(texts), add_special_tokens=False)

    def _kept(self, length: int) -> slice:
        """Which tokens of a text are left after truncation."""
        if self._keep is None or length <= self._keep:
            return slice(0, length)
        return slice(length - self._keep, length) if self._cut_left else slice(0, self._keep)

    def _by_words(
        self, whole: list[NDArray[np.int64]], words: list[NDArray[np.int64]], spans: list[slice]
    ) -> tuple[int, int, int]:
        """Tokens and words of the whole texts, and continuations of the kept parts, from word numbers."""
        total = count = continued = 0
        for ids, numbers, span in zip(whole, words, spans, strict=True):
            plain = ~self._table.control_mask(ids)
            starts = np.ones(len(ids), np.bool_)
            starts[1:] = numbers[1:] != numbers[:-1]
            total += int(plain.sum())
            count += int((starts & plain).sum())
            continued += int((~starts & plain)[span].sum())
        return total, count, continued


def _array(values: Sequence[int | None]) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def _join(parts: list[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All ids one after the other, and where each text begins."""
    if len(parts) == 1:
        return parts[0], np.array((0, len(parts[0])))
    offsets = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(part) for part in parts], out=offsets[1:])
    return np.concatenate([*parts, np.empty(0, np.int64)]), offsets


def _sums(counts: Mapping[str, NDArray[np.int64]]) -> dict[str, Any]:
    return {name: sum(values.tolist()) for name, values in counts.items()}
