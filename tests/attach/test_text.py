"""Text statistics with real tokenizers of every family, trained or built on the spot."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from mlmon.attach import CharacterStatistics, HfTokenizerStatistics
from mlmon.errors import ConfigError
from mlmon.registry.tokenizers import load_tokenizer, parse_tokenizer
from mlmon.stats.tokens import TokenTable, Vocabulary, WordRule

if TYPE_CHECKING:
    from pathlib import Path

CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "pack my box with five dozen liquor jugs",
    "how vexingly quick daft zebras jump",
    "hello world, hello there; reading is unbelievable fun",
] * 5
BERT_UNKNOWN, UNKNOWN = "[UNK]", "<unk>"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def bert(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def small_word_piece() -> Tokenizer:
    """A vocabulary known by heart."""
    words = [*SPECIAL, "play", "##ing", "##ed", "the", "un", "##play", "##able", ",", "i"]
    return bert(Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token=BERT_UNKNOWN)))


def trained_word_piece() -> Tokenizer:
    tokenizer = bert(Tokenizer(models.WordPiece(unk_token=BERT_UNKNOWN)))
    trainer = trainers.WordPieceTrainer(vocab_size=150, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<s>", "<pad>", "</s>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def unigram(*, byte_fallback: bool) -> Tokenizer:
    """SentencePiece's layout: control tokens, 256 bytes, pieces. Trained, then given byte fallback."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    pieces = [f"<0x{value:02X}>" for value in range(256)]
    trainer = trainers.UnigramTrainer(
        vocab_size=350,
        special_tokens=["<unk>", "<s>", "</s>", "<mask>", *pieces],
        unk_token=UNKNOWN,
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    document = json.loads(tokenizer.to_str())
    document["model"]["byte_fallback"] = byte_fallback
    # bytes are pieces of the model, not added tokens
    document["added_tokens"] = [t for t in document["added_tokens"] if t["content"] not in pieces]
    return Tokenizer.from_str(json.dumps(document))


def test_word_piece_by_hand() -> None:
    found = HfTokenizerStatistics(small_word_piece()).measure(["I played the unplayable, [MASK] xyz"])
    # i play ##ed the un ##play ##able , [MASK] [UNK]
    digest = found.pop("tokenizer_digest")
    assert len(digest) == 64
    assert found == {
        "characters": 35,
        "words": 7,
        "tokens": 10,
        "unknown_tokens": 1,
        "continuation_tokens": 3,
        "masked_tokens": 1,
        "truncated_tokens": 0,
    }


def test_several_texts_are_summed() -> None:
    found = HfTokenizerStatistics(small_word_piece()).measure(["playing", "", "zzz the"])
    assert (found["tokens"], found["words"], found["continuation_tokens"], found["unknown_tokens"]) == (
        4,
        3,
        1,
        1,
    )
    assert found["characters"] == 14


def test_special_tokens_written_into_the_text_do_not_count() -> None:
    found = HfTokenizerStatistics(small_word_piece()).measure(["play [SEP] the [PAD]"])
    assert (found["tokens"], found["words"]) == (2, 2)


@pytest.mark.parametrize("direction", ["right", "left"])
def test_truncation_by_the_tokenizers_own_setting(direction: str) -> None:
    tokenizer = small_word_piece()
    tokenizer.enable_truncation(6, direction=direction)
    found = HfTokenizerStatistics(tokenizer).measure(["I played the unplayable, [MASK] xyz"])
    # four tokens fit besides [CLS] and [SEP]
    assert (found["tokens"], found["truncated_tokens"], found["words"]) == (4, 6, 7)
    right = {"unknown_tokens": 0, "masked_tokens": 0, "continuation_tokens": 1}  # i play ##ed the
    left = {"unknown_tokens": 1, "masked_tokens": 1, "continuation_tokens": 1}  # ##able , [MASK] [UNK]
    expected = right if direction == "right" else left
    assert {name: found[name] for name in expected} == expected
    assert len(tokenizer.encode("I played the unplayable, [MASK] xyz").ids) == 6  # it is left as it was


def test_truncation_by_the_server() -> None:
    found = HfTokenizerStatistics(small_word_piece(), max_tokens=5).measure(["the the the the the", "the"])
    assert (found["tokens"], found["truncated_tokens"], found["words"]) == (4, 2, 6)


def test_truncation_below_the_special_tokens_leaves_nothing() -> None:
    found = HfTokenizerStatistics(small_word_piece(), max_tokens=1).measure(["the the"])
    assert (found["tokens"], found["truncated_tokens"]) == (0, 2)


def test_padding_does_not_count() -> None:
    tokenizer = small_word_piece()
    tokenizer.enable_padding(length=50, pad_id=0, pad_token=SPECIAL[0])
    assert HfTokenizerStatistics(tokenizer).measure(["the"])["tokens"] == 1


def test_byte_level_bpe_knows_every_byte_and_tells_words_by_its_pre_tokenizer() -> None:
    found = HfTokenizerStatistics(byte_level()).measure(["the quick fox (quick) 中 <mask>"])
    # the | Ġquick | Ġfox | Ġ( | quick | ) | Ġ中, three bytes | Ġ | <mask>
    assert found["words"] == 9
    assert found["masked_tokens"] == 1
    assert found["tokens"] - found["continuation_tokens"] == found["words"]
    assert "unknown_tokens" not in found
    assert "byte_fallback_tokens" not in found


def test_unigram_with_byte_fallback_by_hand() -> None:
    found = HfTokenizerStatistics(unigram(byte_fallback=True)).measure(["the 中 dog"])
    assert found["byte_fallback_tokens"] == 3  # three bytes of UTF-8
    assert found["unknown_tokens"] == 0
    assert found["words"] == 3


def test_unigram_without_byte_fallback_has_unknown_tokens() -> None:
    found = HfTokenizerStatistics(unigram(byte_fallback=False)).measure(["the 中 dog"])
    assert found["unknown_tokens"] == 1
    assert "byte_fallback_tokens" not in found


TOKENIZERS = {
    "wordpiece": trained_word_piece(),
    "bytelevel": byte_level(),
    "unigram": unigram(byte_fallback=True),
    "unigram without bytes": unigram(byte_fallback=False),
}
TEXT = st.lists(
    st.sampled_from(
        ["the", "fox ", " jumps", "unbelievable", ", ", "[MASK]", "<mask>", "é", "中", "(a)", "  ", "zz"]
    ),
    max_size=12,
).map("".join)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(text=TEXT, limit=st.none() | st.integers(1, 12))
def test_counts_agree_with_the_librarys_own_tokens(name: str, text: str, limit: int | None) -> None:
    """The oracle reads tokens and word numbers of an ordinary encoding, special tokens and truncation on."""
    tokenizer = TOKENIZERS[name]
    found = HfTokenizerStatistics(tokenizer, max_tokens=limit, token_ids=True).measure([text])
    reference = Tokenizer.from_str(tokenizer.to_str())
    full = reference.encode(text)
    special = reference.num_special_tokens_to_add(False)
    if limit is not None and limit > special:  # the library refuses less
        reference.enable_truncation(limit)
    elif limit is not None:
        return
    cut = reference.encode(text)

    def tokens(encoding: Any) -> list[tuple[str, int]]:
        parts = zip(encoding.ids, encoding.word_ids, encoding.special_tokens_mask, strict=True)
        return [(reference.id_to_token(i), word) for i, word, mask in parts if not mask]

    kept, whole = tokens(cut), tokens(full)
    names = [token for token, _ in kept]
    assert found["tokens"] == len(kept)
    assert found["truncated_tokens"] == len(whole) - len(kept)
    assert found["words"] == len({word for _, word in whole})
    assert found["continuation_tokens"] == len(kept) - len({word for _, word in kept})
    assert found.get("unknown_tokens", 0) == names.count("[UNK]") + names.count("<unk>")
    assert found.get("byte_fallback_tokens", 0) == sum(token.startswith("<0x") for token in names)
    assert found["masked_tokens"] == sum(
        token in ("[MASK]", "<mask>") and (token in reference.get_vocab()) for token in names
    )
    assert found["token_ids"] == [reference.token_to_id(token) for token in names]
    assert found["characters"] == len(text)


def test_long_texts_take_the_other_path_to_the_same_counts() -> None:
    for tokenizer in TOKENIZERS.values():
        statistics = HfTokenizerStatistics(tokenizer)
        once = statistics.measure(["the quick 中 fox, jumps"])
        many = statistics.measure(["the quick 中 fox, jumps"] * 200)
        once.pop("tokenizer_digest")
        assert {name: many[name] for name in once} == {name: 200 * value for name, value in once.items()}


def test_digest_is_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    small_word_piece().save(str(path))
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert HfTokenizerStatistics(path).digest == expected
    assert HfTokenizerStatistics(small_word_piece()).digest == expected
    assert load_tokenizer(path).digest == expected
    assert HfTokenizerStatistics(path).measure(["the"])["tokenizer_digest"] == expected


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"model": {"vocab": {"a": -5}}}', b"\xff\xfe"])
def test_files_that_are_no_tokenizer_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    for load in (load_tokenizer, HfTokenizerStatistics):
        with pytest.raises(ConfigError, match=r"broken\.json"):
            load(path)
    with pytest.raises(ConfigError, match="absent"):
        load_tokenizer(tmp_path / "absent")


def test_characters_alone() -> None:
    assert CharacterStatistics().measure(["né", "中"]) == {"characters": 3}


# The table by itself, as the sidecar uses it


@pytest.mark.parametrize("name", ["wordpiece", "unigram", "unigram without bytes"])
@settings(max_examples=60, deadline=None)
@given(texts=st.lists(TEXT, max_size=6))
def test_the_table_counts_events_of_a_batch_like_each_alone(name: str, texts: list[str]) -> None:
    """With control tokens among the ids, and an offset into a longer array."""
    tokenizer = TOKENIZERS[name]
    table = parse_tokenizer(tokenizer.to_str().encode()).table
    lists = [tokenizer.encode(text).ids for text in texts]
    offsets = 2 + np.cumsum([0, *map(len, lists)])
    ids = np.array([0, 0, *(i for ids in lists for i in ids), 0], np.int32)
    counts = table.count(ids, offsets)
    statistics = HfTokenizerStatistics(tokenizer)
    for row, text in enumerate(texts):
        alone = statistics.measure([text])
        assert {key: int(values[row]) for key, values in counts.items()} == {
            key: alone[key] for key in counts
        }
    assert all(values.dtype == np.int64 and len(values) == len(texts) for values in counts.values())


def test_ids_outside_the_vocabulary_are_unknown() -> None:
    table = parse_tokenizer(small_word_piece().to_str().encode()).table
    counts = table.count(np.array([5, 14, -1, 2**31 - 1], np.int64), np.array([0, 4]))
    assert counts["tokens"].tolist() == [4]
    assert counts["unknown_tokens"].tolist() == [3]


def test_words_by_suffix() -> None:
    vocabulary = Vocabulary(
        {"<s>": 0, "pl": 1, "ay</w>": 2, "a</w>": 3}, frozenset({0}), rule=WordRule.SUFFIX, affix="</w>"
    )
    counts = TokenTable(vocabulary).count(np.array([0, 1, 2, 3, 1, 1, 2]), np.array([0, 4, 7]))
    assert counts["words"].tolist() == [2, 1]
    assert counts["continuation_tokens"].tolist() == [1, 2]


def test_word_level_tokens_are_words() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "<unk>": 2}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    found = HfTokenizerStatistics(tokenizer).measure(["a b c a"])
    assert (found["words"], found["tokens"], found["unknown_tokens"]) == (4, 4, 1)


def test_marks_written_by_the_normalizer_start_words() -> None:
    """SentencePiece BPE as Llama has it: no pre-tokenizer."""
    words = {"<unk>": 0, "\u2581": 1, "\u2581a": 2, "b": 3, "a": 4, "\u2581ab": 5}
    tokenizer = Tokenizer(models.BPE(words, [("\u2581", "a"), ("\u2581a", "b")], unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    found = HfTokenizerStatistics(tokenizer).measure(["ab a ba"])
    # \u2581ab \u2581a \u2581 b a
    assert (found["tokens"], found["words"], found["continuation_tokens"]) == (5, 3, 2)


def test_absurd_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="token ids"):
        TokenTable(Vocabulary({"a": 2**40}))
