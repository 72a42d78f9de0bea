"""Fields of tokenization against NumPy; false alarms and power with tokenizers trained on the spot."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from field_kit import PAGE, Reference, event_batch, evidence, learned, sums_of
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from mlmon.attach import HfTokenizerStatistics
from mlmon.demo.corpus import docstring_sentences
from mlmon.errors import IncompatibleStateError
from mlmon.monitors.tokenizer import TokenizerConfig, TokenizerMonitor
from mlmon.stats.pack import pack, unpack
from mlmon.stats.tokens import TokenTable, Vocabulary, WordRule

if TYPE_CHECKING:
    from pathlib import Path

    from mlmon.baseline.model import Parameters, ScopeKey
    from mlmon.events import EventBatch

pytestmark = pytest.mark.slow

MONITOR = TokenizerMonitor(TokenizerConfig())
COUNTS = (
    *("tokens", "words", "characters", "unknown_tokens", "continuation_tokens"),
    *("byte_fallback_tokens", "truncated_tokens"),
)


def events_of(rows: list[dict[str, Any]]) -> EventBatch:
    """A batch with the columns that any row has."""
    kinds = dict.fromkeys(COUNTS, pa.int32())
    kinds |= {"token_ids": pa.list_(pa.int32()), "status": pa.string(), "sampling_weight": pa.float64()}
    sent = [name for name in kinds if any(name in row for row in rows)]
    columns = {name: pa.array([row.get(name) for row in rows], kinds[name]) for name in sent}
    return event_batch(len(rows), **columns)


def some_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows with counts that hang together, each field now and then absent."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        words = int(rng.integers(1, 40))
        tokens = words + int(rng.poisson(0.3 * words))
        row: dict[str, Any] = {
            "words": words,
            "tokens": tokens,
            "characters": 4 * words + int(rng.poisson(words)),
            "unknown_tokens": int(rng.random() < 0.1),
            "continuation_tokens": tokens - words,
            "byte_fallback_tokens": int(rng.poisson(0.05)),
            "truncated_tokens": 30 * int(rng.random() < 0.05),
            "token_ids": (rng.geometric(0.01, tokens) - 1).tolist(),
            "status": str(rng.choice(["ok", "ok", "ok", "error"])),
            "sampling_weight": float(rng.choice([1.0, 4.0])),
        }
        for name in rng.choice(list(row), 2):
            row.pop(name, None)
        rows.append(row)
    return rows


@pytest.fixture(scope="module")
def parameters() -> Parameters:
    return learned(MONITOR, [events_of(some_rows(900, 1))], [events_of(some_rows(700, 2))])


def served(rows: list[dict[str, Any]], *names: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Columns and weights of the rows answered ok that carry all of these."""
    kept = [r for r in rows if r.get("status", "ok") == "ok" and all(n in r for n in names)]
    return [np.array([r[n] for r in kept], float) for n in names], np.array(
        [r.get("sampling_weight", 1.0) for r in kept]
    )


def test_fields_are_what_numpy_says(parameters: Parameters) -> None:
    rows = some_rows(500, 3)
    found = sums_of(MONITOR.extractor(parameters), events_of(rows))
    assert set(found) == {
        *("unknown", "byte_fallback", "truncated", "tokens_per_word", "continuation_share"),
        *("characters_per_token", "length", "token_ids"),
    }
    for name, count in (
        ("unknown", "unknown_tokens"),
        ("byte_fallback", "byte_fallback_tokens"),
        ("truncated", "truncated_tokens"),
    ):
        (values,), w = served(rows, count)
        assert found[name].total.tolist() == [w[values > 0].sum()]
        assert found[name].size.tolist() == [len(w), w.sum(), (w**2).sum()]
    whole = [{**r, "all": r["tokens"] + r.get("truncated_tokens", 0)} for r in rows if "tokens" in r]
    ratios = {
        "tokens_per_word": ("all", "words"),
        "continuation_share": ("continuation_tokens", "tokens"),
        "characters_per_token": ("characters", "all"),
    }
    for name, (above, below) in ratios.items():
        (n, d), w = served(whole, above, below)
        ratio, size = parameters.values["ratios"][name]
        values = np.clip((n - ratio * d) / size, *parameters.fields[name].clip)
        assert found[name].total == pytest.approx([w @ values], rel=1e-9)
        assert found[name].n == len(w)
    (lengths,), w = served(whole, "all")
    clipped = np.clip(np.log1p(lengths), *parameters.fields["length"].clip)
    assert found["length"].total == pytest.approx([w @ clipped], rel=1e-12)


def test_token_ids_are_counted_over_the_events_that_have_some(parameters: Parameters) -> None:
    rows = some_rows(300, 4)
    rows[0] |= {"token_ids": [], "status": "ok"}
    rows[1] |= {"token_ids": [2**31 - 1, None, 10**6], "status": "ok", "sampling_weight": 8.0}
    sums = sums_of(MONITOR.extractor(parameters), events_of(rows))["token_ids"]
    spec = parameters.fields["token_ids"]
    assert len(spec.names) == 256
    kept = [r for r in rows if r.get("status", "ok") == "ok" and r.get("token_ids")]
    expected: Counter[str] = Counter()
    for row in kept:
        for token in row["token_ids"]:
            name = str(token) if str(token) in spec.names else "other"
            expected[name] += row.get("sampling_weight", 1.0)
    assert dict(zip(spec.names, sums.total.tolist(), strict=True)) == {n: expected[n] for n in spec.names}
    w = np.array([r.get("sampling_weight", 1.0) for r in kept])
    assert sums.size.tolist() == [len(w), w.sum(), (w**2).sum()]
    assert expected["other"] > 24


def test_the_most_frequent_ids_have_cells(parameters: Parameters) -> None:
    rows = [*some_rows(900, 1), *some_rows(700, 2)]
    counts: Counter[int] = Counter()
    for row in rows:
        if row.get("status", "ok") == "ok":
            for token in row.get("token_ids", ()):
                counts[token] += row.get("sampling_weight", 1.0)
    order = sorted(counts, key=lambda token: (-counts[token], token))[:255]
    assert parameters.values["ids"].tolist() == order
    assert parameters.fields["token_ids"].names == (*map(str, order), "other")


def test_a_linearised_ratio_follows_the_ratio(parameters: Parameters) -> None:
    ratio, size = parameters.values["ratios"]["tokens_per_word"]
    rows = [{"words": w, "tokens": w + w // 4, "characters": 5 * w} for w in range(4, 40)]
    rows = [{**row, "tokens": row["tokens"] + row["words"] // 8} for row in rows]
    sums = sums_of(MONITOR.extractor(parameters), events_of(rows))["tokens_per_word"]
    tokens, words = (sum(row[name] for row in rows) for name in ("tokens", "words"))
    # to first order: by the denominator of the reference, so by how much longer these texts are
    scale = words / len(rows) / size
    assert sums.mean[0] == pytest.approx((tokens / words - ratio) * scale, rel=0.05)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), data=st.data())
def test_any_split_and_order_gives_the_same_sums(
    parameters: Parameters, seed: int, data: st.DataObject
) -> None:
    monitor = TokenizerMonitor(TokenizerConfig(), parameters=lambda _name, _scope: parameters)
    whole = events_of(some_rows(200, 5))
    shuffled = whole.take(np.random.default_rng(seed).permutation(200))
    cuts = sorted(data.draw(st.lists(st.integers(0, 200), max_size=4)))
    merged = monitor.summary()
    for first, stop in zip([0, *cuts], [*cuts, 200], strict=True):
        part = monitor.summary()
        if stop > first:
            part.update(shuffled.slice(first, stop - first))
        merged.merge(monitor.load(part.to_bytes()))
    for name, sums in sums_of(monitor.extractor(parameters), whole).items():
        found = monitor.drift(merged)[name]
        assert np.array_equal(found.size, sums.size)
        if parameters.fields[name].kind == "vector":
            assert found.total == pytest.approx(sums.total, rel=1e-9)
        else:
            assert np.array_equal(found.total, sums.total), name


def test_learning_does_not_depend_on_how_events_come() -> None:
    whole = events_of(some_rows(800, 6))
    once = learned(MONITOR, [whole])
    shuffled = whole.take(np.random.default_rng(0).permutation(800))
    pieces = [shuffled.slice(start, 100) for start in range(0, 800, 100)]
    for other in (learned(MONITOR, pieces), learned(MONITOR, pieces[:3], pieces[3:])):
        assert list(other.fields) == list(once.fields)
        assert np.array_equal(other.values["ids"], once.values["ids"])
        for name, spec in once.fields.items():
            if spec.kind == "vector":
                assert other.fields[name].clip == pytest.approx(spec.clip)
                assert other.fields[name].whiten == pytest.approx(spec.whiten)


def test_only_what_the_reference_carried_is_a_field() -> None:
    made = learned(MONITOR, [events_of([{"tokens": t, "unknown_tokens": 0} for t in range(5, 50)])])
    assert set(made.fields) == {"unknown", "length"}
    learner = MONITOR.learner()
    learner.update(events_of([{"status": "error", "tokens": 4}]), 0)
    assert learner.finish((0,)) is None
    assert learner.finish((1,)) is None


def test_a_constant_ratio_has_a_scale() -> None:
    rows = [{"tokens": t, "words": t, "continuation_tokens": 0} for t in range(5, 50)]
    made = learned(MONITOR, [events_of(rows)])
    for name in ("tokens_per_word", "continuation_share"):
        assert 0 < made.fields[name].whiten[0, 0] < np.inf
        low, high = made.fields[name].clip
        assert low < 0 < high


def test_ids_beyond_the_bound_are_counted_as_one() -> None:
    learner = MONITOR.learner()
    learner.update(events_of([{"token_ids": [5, 2**31 - 1, 2**20]}, {"token_ids": [5]}]), 0)
    made = learner.finish((0,))
    assert made is not None
    assert made.values["ids"].tolist() == [5]
    assert learner.warnings() == ["token ids from 1048575 on are counted as one"]


# -- State -----------------------------------------------------------------------------------------------


def test_summaries_of_before_drift_are_still_read(parameters: Parameters) -> None:
    monitor = TokenizerMonitor(TokenizerConfig(), parameters=lambda _name, _scope: parameters)
    summary = monitor.summary()
    summary.update(events_of(some_rows(50, 1)))
    _, *parts, _ = unpack(summary.to_bytes())
    old = monitor.load(pack([1, *parts]))
    assert np.array_equal(old.sums, summary.sums)
    assert old.drift.fields == {}
    with pytest.raises(IncompatibleStateError, match="form 99"):
        monitor.load(pack([99, *parts]))


def test_counts_outlive_another_baseline(parameters: Parameters) -> None:
    other = learned(MONITOR, [events_of(some_rows(300, 9))])
    mine, theirs = (
        TokenizerMonitor(TokenizerConfig(), parameters=lambda _name, _scope, p=p: p)
        for p in (parameters, other)
    )
    summary = mine.summary()
    summary.update(events_of(some_rows(50, 1)))
    assert mine.load(summary.to_bytes()).drift.fields["length"].n > 0
    loaded = theirs.load(summary.to_bytes())
    assert np.array_equal(loaded.ratios, summary.ratios)
    assert not loaded.drift.fields
    loaded.update(events_of(some_rows(50, 2)))
    assert loaded.drift.fields["length"].n > 0


def test_what_drift_reads_is_decoded_only_where_there_can_be_a_baseline() -> None:
    assert {"token_ids", "probe_id", "status"}.isdisjoint(MONITOR.fields)
    watching = TokenizerMonitor(TokenizerConfig(), parameters=lambda _name, _scope: None)
    assert {"token_ids", "probe_id", "status", "tokens"} <= watching.fields


def test_counts_are_derived_from_ids_for_drift_too() -> None:
    table = TokenTable(
        Vocabulary({"[UNK]": 0, "a": 1, "##b": 2}, unknown=0, rule=WordRule.PREFIX, affix="##")
    )
    asked: list[str] = []

    def tables(model: str, version: str) -> TokenTable:
        asked.append(f"{model} {version}")
        return table

    monitor = TokenizerMonitor(TokenizerConfig(), tables)
    batch = events_of([{"token_ids": [1, 2, 0]}, {"token_ids": [1]}, {"token_ids": [1, 2, 2]}])
    made = learned(monitor, [batch])
    watching = TokenizerMonitor(TokenizerConfig(), tables, lambda _name, _scope: made)
    asked.clear()
    summary = watching.summary()
    summary.update(batch)
    assert asked == ["encoder 1"], "one reading for the counts and for drift"
    fields = watching.drift(summary)
    assert fields["unknown"].mean.tolist() == [1 / 3]
    assert fields["tokens_per_word"].mean[0] == pytest.approx(0.0, abs=0.01)  # cut at quantiles


def test_scopes_of_the_tokenizer_are_asked_for_by_name(parameters: Parameters) -> None:
    asked: list[tuple[str, ScopeKey]] = []

    def find(name: str, scope: ScopeKey) -> Parameters:
        asked.append((name, scope))
        return parameters

    TokenizerMonitor(TokenizerConfig(), parameters=find).summary().update(events_of(some_rows(3, 1)))
    assert asked == [("tokenizer", ("search", "encoder", "1"))]


# -- Judged ----------------------------------------------------------------------------------------------

GERMAN = [
    f"{who} {does} {what} {when}."
    for who in ("Der Kunde", "Die Verkäuferin", "Mein Nachbar", "Unsere Abteilung", "Das Ministerium")
    for does in ("überweist", "verschickt", "benötigt", "vergisst", "kündigt", "überprüft")
    for what in ("die Rechnung", "seine Versicherung", "den Vertrag", "das Girokonto", "die Überweisung")
    for when in ("jeden Dienstag", "nächste Woche", "gelegentlich", "ausnahmsweise", "frühmorgens")
]


def texts() -> list[str]:
    found = docstring_sentences(3200)
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))]


def train(kind: str, folder: Path) -> Path:
    """A tokenizer of this family, trained on English."""
    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106 - a token, not a secret
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        trainer = trainers.WordPieceTrainer(vocab_size=3000, special_tokens=special, show_progress=False)
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=3000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
    tokenizer.train_from_iterator(texts(), trainer)
    path = folder / f"{kind}.json"
    tokenizer.save(str(path))
    return path


class Served:
    """A model behind a tokenizer, watched: reference from one half of the texts, windows from the other."""

    def __init__(self, path: Path, folder: Path) -> None:
        self.path, self.folder = path, folder
        measure = HfTokenizerStatistics(str(path), token_ids=True)
        rows = [dict(measure.measure([text])) for text in texts()]
        self.reference_rows, self.rest = rows[:2000], rows[2000:]
        blocks = [events_of(self.reference_rows[start : start + 25]) for start in range(0, 2000, 25)]
        self.reference = Reference(MONITOR, blocks[::2], blocks[1::2])

    def windows(self, rows: list[dict[str, Any]], size: int, count: int) -> dict[str, np.ndarray]:
        """Evidence of each field over some windows."""
        rng, batch = np.random.default_rng(1), events_of(rows)
        drawn = [rng.choice(len(rows), size) for _ in range(count)]
        return evidence([self.reference.judge(batch.take(places)) for places in drawn])

    def measured(self, sentences: list[str], path: Path | None = None) -> list[dict[str, Any]]:
        measure = HfTokenizerStatistics(str(path or self.path), token_ids=True)
        return [dict(measure.measure([text])) for text in sentences]


@pytest.fixture(scope="module")
def wordpiece(tmp_path_factory: pytest.TempPathFactory) -> Served:
    folder = tmp_path_factory.mktemp("wordpiece")
    return Served(train("wordpiece", folder), folder)


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Served:
    folder = tmp_path_factory.mktemp("bpe")
    return Served(train("bpe", folder), folder)


@pytest.mark.parametrize("family", ["wordpiece", "bpe"])
def test_no_false_alarm_on_text_of_the_same_kind(family: str, request: pytest.FixtureRequest) -> None:
    served_ = request.getfixturevalue(family)
    for size in (100, 400):
        for name, log_e in served_.windows(served_.rest, size, 25).items():
            assert log_e.max() < PAGE, name
            assert np.exp(log_e).mean() <= 1.0, name


def found_in(windows: dict[str, np.ndarray], most: int) -> set[str]:
    """Fields that would page alone within so many windows."""
    return {name for name, log_e in windows.items() if np.maximum.accumulate(log_e.cumsum())[most - 1] > PAGE}


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("wordpiece", {"tokens_per_word", "continuation_share", "characters_per_token", "token_ids"}),
        ("bpe", {"tokens_per_word", "continuation_share", "characters_per_token", "token_ids"}),
    ],
)
def test_another_language_is_found_in_a_window(
    family: str, fields: set[str], request: pytest.FixtureRequest
) -> None:
    served_ = request.getfixturevalue(family)
    assert found_in(served_.windows(served_.measured(GERMAN), 150, 3), 1) >= fields


def test_lowercasing_off_is_found_in_a_window(wordpiece: Served) -> None:
    tokenizer = Tokenizer.from_file(str(wordpiece.path))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    cased = wordpiece.folder / "cased.json"
    tokenizer.save(str(cased))
    rows = wordpiece.measured(texts()[2000:], cased)
    assert found_in(wordpiece.windows(rows, 100, 3), 1) >= {"unknown"}


def test_a_tenth_of_the_ids_permuted_is_found_by_the_ids_alone(wordpiece: Served) -> None:
    rng = np.random.default_rng(0)
    size = Tokenizer.from_file(str(wordpiece.path)).get_vocab_size()
    table = np.arange(size)
    moved = rng.choice(size, size // 10, replace=False)
    table[moved] = table[np.roll(moved, 1)]
    rows = [{**row, "token_ids": table[row["token_ids"]].tolist()} for row in wordpiece.rest]
    windows = wordpiece.windows(rows, 400, 3)
    assert found_in(windows, 3) == {"token_ids"}


def test_longer_texts_are_found_by_their_length_alone(bpe: Served) -> None:
    joined = [" ".join(pair) for pair in zip(texts()[2000::2], texts()[2001::2], strict=False)]
    windows = bpe.windows(bpe.measured(joined), 200, 3)
    assert "length" in found_in(windows, 1)
    assert "unknown" not in found_in(windows, 3)
