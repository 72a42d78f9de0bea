"""From mirrored requests to evaluations in the log, over real servers: equal and other models, mix-ups."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from server_kit import configured, listening, make, sentences
from shadow_kit import (
    START_US,
    JsonServer,
    answers_of,
    configuration,
    event,
    logged,
    masked,
    mirror_answers,
    place,
)

from mlmon.attach import Emitter, EmitterConfig, MirrorFiles, MirrorRecord
from mlmon.attach.mirror_spool import list_files
from mlmon.clock import SystemClock
from mlmon.errors import ConfigError, SourceError
from mlmon.server.app import build_server
from mlmon.shadow import build_shadow
from mlmon.shadow.clients import Answer
from mlmon.shadow.compare import compare
from mlmon.shadow.config import EndpointConfig
from mlmon.shadow.masking import mask_word, recovered
from mlmon.shadow.ranking import Ranked
from mlmon.shadow.reading import SpoolMirrorReader
from mlmon.shadow.similarity import linear_cka
from mlmon.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlmon.shadow import WindowReport
    from mlmon.shadow.config import ShadowConfig

TEXTS = masked(sentences(200, seed=9))


def evaluate(config: ShadowConfig) -> list[WindowReport]:
    reports: list[WindowReport] = []
    shadow = build_shadow(config, tell=reports.append)
    try:
        while shadow.step(0.0):
            pass
        shadow.finish()
    finally:
        shadow.close()
    return reports


@pytest.fixture(scope="module")
def other_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A model with the same tokenizer and other weights."""
    import torch
    import transformers

    directory = tmp_path_factory.mktemp("other")
    made = make("bert", directory)
    model = transformers.BertForMaskedLM.from_pretrained(directory)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(directory)
    with listening(build_server(made.load(), configured())) as url:
        yield url


# --- equal and other models


def test_an_equal_model_agrees_in_all_and_nothing_is_found(tmp_path: Path, server_url: str) -> None:
    mirror_answers(tmp_path, TEXTS, answers_of(server_url, TEXTS))
    (report,) = evaluate(configuration(tmp_path, server_url))
    assert (report.replayed, report.evaluated, report.void, report.findings) == (200, 200, {}, ())
    assert report.shares["agreement"].value == 1
    assert report.shares["echo"].n > 180  # of texts with next to no letters nothing is said
    assert report.shares["echo"].value == 1
    assert report.means["probability_difference"].value < 1e-5
    assert report.means["kl_divergence"].value < 1e-6
    assert {one.segment for one in report.segments} == {"language=de", "language=en", "language=fr"}
    rows = logged(tmp_path)
    assert len(rows) == 200
    assert {row["reference"] for row in rows} == {"reference 7"}
    assert {row["agreement"] for row in rows} == {1}
    first = min(rows, key=lambda row: int(row["event_id"].removeprefix("r-")))
    assert first["request_time"].timestamp() * 1e6 == START_US < first["event_time"].timestamp() * 1e6
    assert (first["service"], first["model_version"], first["deployment"]) == ("shop", "1", "stable")
    assert dict(first["segments"]) == {"language": "de"}
    assert "top_labels" not in first or first["top_labels"] is None, "an evaluation says what was answered"


def test_another_model_is_found_within_two_hundred_requests(
    tmp_path: Path, server_url: str, other_url: str
) -> None:
    mirror_answers(tmp_path, TEXTS, answers_of(other_url, TEXTS))
    (report,) = evaluate(configuration(tmp_path, server_url))
    assert report.shares["agreement"].value < 0.5
    assert any(finding.startswith("agreement") for finding in report.findings)
    assert report.shares["echo"].value == 1, "it answers its own requests"
    assert report.means["kl_divergence"].value > 0.1
    overlap = report.means["rank_biased_overlap"]
    assert overlap.low is not None
    assert 0 < overlap.low < overlap.value < 1
    agreed = sum(row["agreement"] for row in logged(tmp_path))
    assert agreed / 200 == pytest.approx(report.shares["agreement"].value)


def test_answers_of_other_requests_are_found(tmp_path: Path, server_url: str) -> None:
    answers = answers_of(server_url, TEXTS)
    answers[::10] = [*answers[10::10], answers[0]]  # one in ten goes to another
    mirror_answers(tmp_path, TEXTS, answers)
    (report,) = evaluate(configuration(tmp_path, server_url))
    assert report.shares["echo"].value == pytest.approx(0.9, abs=0.02)
    assert [finding.partition(":")[0] for finding in report.findings] == ["echo"]


def test_a_reference_that_mixes_up_is_no_reference(tmp_path: Path, server_url: str) -> None:
    answers = answers_of(server_url, TEXTS[:40])

    def mixed(_path: str, body: Any, _headers: Any) -> Any:
        results = [
            [
                {"token_str": label, "score": score, "sequence": "words of somebody else entirely"}
                for label, score in zip(answers[0].first.labels, answers[0].first.scores, strict=True)
            ]
            for _ in body["inputs"]
        ]
        return 200, {}, results

    mirror_answers(tmp_path, TEXTS[:40], answers)
    with JsonServer(mixed) as server:
        (report,) = evaluate(configuration(tmp_path, server.url))
    assert report.void == {"reference_mixed_up": 40}
    assert (report.evaluated, report.findings, logged(tmp_path)) == (0, (), [])


def test_production_is_asked_again_under_concurrency(tmp_path: Path, server_url: str) -> None:
    """Its mirrored answers are right; what it answers when several ask at once is not."""
    answers = answers_of(server_url, TEXTS)
    held: list[str] = []

    def mixed(_path: str, body: Any, _headers: Any) -> Any:
        held.extend(body["inputs"])
        texts = body["inputs"] if len(held) < 50 else held[-4:] * len(body["inputs"])
        rows = [[{"token_str": "a", "score": 0.5, "sequence": text.replace("[MASK]", "a")}] for text in texts]
        return 200, {}, rows[: len(body["inputs"])]

    mirror_answers(tmp_path, TEXTS, answers)
    with JsonServer(mixed) as server:
        again = EndpointConfig(url=server.url, concurrency=8, batch=1)
        (report,) = evaluate(configuration(tmp_path, server_url, production=again))
    assert report.shares["agreement"].value == 1, "the mirrored answer is what is compared"
    assert report.shares["echo"].value < 0.99
    assert any(finding.startswith("echo") for finding in report.findings)


def test_requests_without_answers_are_void_unless_production_is_asked(
    tmp_path: Path, server_url: str
) -> None:
    mirror_answers(tmp_path, TEXTS[:30], [Answer()] * 30)
    (report,) = evaluate(configuration(tmp_path, server_url))
    assert report.void == {"no_answer": 30}
    mirror_answers(tmp_path / "b", TEXTS[:30], [Answer()] * 30)
    config = configuration(tmp_path / "b", server_url, production=EndpointConfig(url=server_url))
    (report,) = evaluate(config)
    assert (report.evaluated, report.shares["agreement"].value) == (30, 1)


def test_a_reference_that_is_away_makes_replays_void(tmp_path: Path, server_url: str) -> None:
    mirror_answers(tmp_path, TEXTS[:5], answers_of(server_url, TEXTS[:5]))
    config = configuration(tmp_path, "http://127.0.0.1:9", endpoint={"retries": 0})
    (report,) = evaluate(config)
    assert report.void == {"unreachable": 5}
    assert logged(tmp_path) == []


# --- embeddings and self-labels


def test_embeddings_are_compared_by_cosine_and_alignment(tmp_path: Path, server_url: str) -> None:
    texts = sentences(80, seed=4)
    answers = answers_of(server_url, texts, "embedding")
    vectors = np.stack([answer.embedding for answer in answers if answer.embedding is not None])
    noise = 0.2 * np.random.default_rng(1).normal(size=vectors.shape)
    noisy = [replace(answer, embedding=row) for answer, row in zip(answers, vectors + noise, strict=True)]
    mirror_answers(tmp_path, texts, noisy, task="embedding")
    (report,) = evaluate(configuration(tmp_path, server_url))
    rows = sorted(logged(tmp_path), key=lambda row: int(row["event_id"].removeprefix("r-")))
    a, b = vectors + noise, vectors
    expected = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert [row["embedding_cosine"] for row in rows] == pytest.approx(expected.tolist(), abs=1e-4)
    assert report.cka == pytest.approx(linear_cka(a, b), abs=1e-3)
    assert "agreement" not in report.shares


def test_embeddings_beside_masks_are_asked_for_too(tmp_path: Path, server_url: str) -> None:
    answers = answers_of(server_url, TEXTS[:20])
    vectors = answers_of(server_url, TEXTS[:20], "embedding")
    both = [replace(a, embedding=v.embedding) for a, v in zip(answers, vectors, strict=True)]
    mirror_answers(tmp_path, TEXTS[:20], both)
    (report,) = evaluate(configuration(tmp_path, server_url))
    assert report.means["embedding_cosine"].value == pytest.approx(1, abs=1e-6)
    assert report.shares["agreement"].n == 20
    assert report.cka == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("kind", ["words", "tokens"])
def test_masked_tokens_come_back_alike_from_equal_servers(tmp_path: Path, server_url: str, kind: str) -> None:
    texts = masked(sentences(120, seed=12))
    mirror_answers(tmp_path, texts, answers_of(server_url, texts))
    production = EndpointConfig(url=server_url)
    (report,) = evaluate(configuration(tmp_path, server_url, production=production, self_labels=kind))
    ours, theirs = report.masked["production"], report.masked["reference"]
    assert ours.tokens == theirs.tokens > 60
    assert (ours.right, ours.loss) == (theirs.right, pytest.approx(theirs.loss, abs=1e-4))
    rows = [row for row in logged(tmp_path) if row.get("labelled_masked_tokens")]
    assert sum(row["labelled_masked_tokens"] for row in rows) == ours.tokens
    assert sum(row["right_masked_tokens"] for row in rows) == ours.right
    assert set(report.calibration) == ({"production", "reference"} if kind == "words" else set())


def test_a_masked_word_is_known_by_what_was_there() -> None:
    plan = mask_word("the [MASK] sat down over there", 3, "<mask>")
    assert plan is not None
    assert plan.text.count("[MASK]") == 2
    assert plan == mask_word("the [MASK] sat down over there", 3, "<mask>")
    assert {found.word for seed in range(40) if (found := mask_word("aa bb cc dd", seed, "[MASK]"))} == {
        "aa",
        "bb",
        "cc",
        "dd",
    }
    assert mask_word("two words", 1, "[MASK]") is None
    other = Ranked(("other",), (1.0,))
    rankings = [other, other]
    rankings[plan.place] = Ranked((plan.word.upper(), "x"), (0.25, 0.1))
    found = recovered(plan, Answer(tuple(rankings)))
    assert found is not None
    count, confidence = found
    assert (count.tokens, count.right, confidence) == (1, 1, 0.25)
    assert count.loss == pytest.approx(np.log(4))
    rankings[plan.place] = Ranked(("x", "y"), (0.6, 0.3))
    missed = recovered(plan, Answer(tuple(rankings)))
    assert missed is not None
    assert missed[0].right == 0
    assert missed[0].loss == pytest.approx(-np.log(0.1))
    assert recovered(plan, Answer()) is None


# --- the mirror is read as it should be


def test_what_is_not_committed_comes_again(tmp_path: Path) -> None:
    files = MirrorFiles(place(tmp_path).spool)
    files.check()
    files.write(b"k", [_record(number).encoded() for number in range(10)])
    reader = SpoolMirrorReader(place(tmp_path).spool)
    assert [record.event_id for record in reader.poll(4, 0)] == ["0", "1", "2", "3"]
    reader.commit()
    assert [record.event_id for record in reader.poll(4, 0)] == ["4", "5", "6", "7"]
    again = SpoolMirrorReader(place(tmp_path).spool)  # killed before its commit
    assert again.lag_seconds() >= 0
    assert [record.event_id for record in again.poll(100, 0)] == [str(n) for n in range(4, 10)]
    again.commit()
    assert again.poll(100, 0) == []
    assert again.lag_seconds() == 0
    files.write(b"k", [_record(10).encoded()])
    assert [record.event_id for record in again.poll(100, 0)] == ["10"]
    files.close()


def test_damage_is_passed_over_and_half_a_line_waited_for(tmp_path: Path) -> None:
    files = MirrorFiles(place(tmp_path).spool)
    files.check()
    whole = _record(1).encoded()
    files.write(b"k", [b"{broken", b'{"mirror_version": 99}', whole])
    (path,) = list_files(tmp_path / "mirror")
    with path.open("ab") as file:
        file.write(whole[:20])
    reader = SpoolMirrorReader(place(tmp_path).spool)
    assert len(reader.poll(10, 0)) == 1
    assert reader.unreadable == 2
    with path.open("ab") as file:
        file.write(whole[20:] + b"\n")
    assert len(reader.poll(10, 0)) == 1
    files.close()


def test_the_reader_keeps_to_the_retention_too(tmp_path: Path) -> None:
    clock = ManualClock(SystemClock().now_us())
    files = MirrorFiles(place(tmp_path).spool, clock)
    files.check()
    files.write(b"k", [_record(1).encoded()])
    reader = SpoolMirrorReader(place(tmp_path).spool, clock)
    clock.advance(86_400 + 1)
    assert reader.poll(10, 0) == []
    assert list_files(tmp_path / "mirror") == []
    files.close()


def test_a_log_that_takes_nothing_leaves_the_lot_uncommitted(
    tmp_path: Path, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlmon.shadow.run._FLUSH_SECONDS", 0.2)
    brief = partial(Emitter, config=EmitterConfig(flush_timeout_seconds=0.1))
    monkeypatch.setattr("mlmon.shadow.run.Emitter", brief)
    mirror_answers(tmp_path, TEXTS[:5], answers_of(server_url, TEXTS[:5]))
    (tmp_path / "spool").write_text("a file where the directory should be")
    shadow = build_shadow(configuration(tmp_path, server_url))
    with pytest.raises(SourceError, match="took no evaluations"):
        shadow.step(0.0)
    shadow.close()
    monkeypatch.undo()
    (tmp_path / "spool").unlink()
    (report,) = evaluate(configuration(tmp_path, server_url))
    assert report.evaluated == 5


def test_a_missing_reference_is_said_and_reports_are_lines(tmp_path: Path, server_url: str) -> None:
    with pytest.raises(ConfigError, match=r"no reference.*--reference"):
        build_shadow(replaced(configuration(tmp_path, ""), ""))
    answers = answers_of(server_url, TEXTS[:9])
    mirror_answers(tmp_path, TEXTS[:9], answers)
    out = tmp_path / "report.jsonl"
    evaluate(configuration(tmp_path, server_url, report=str(out), window_seconds=0.002))
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["replayed"] for line in lines] == [2, 2, 2, 2, 1]  # requests are 1 ms apart
    assert all(text.split()[0] not in ("", "x") or text not in out.read_text() for text in TEXTS[:9])


def replaced(config: ShadowConfig, url: str) -> ShadowConfig:
    import msgspec

    return msgspec.structs.replace(config, reference=EndpointConfig(url=url))


def test_a_comparison_of_answers_without_scores_says_what_it_can() -> None:
    found = compare("a text", Answer((Ranked(("yes",)),)), Answer((Ranked(("no", "yes"), (0.6, 0.4)),)), 5)
    assert (found.agreement, found.topk_overlap) == (0, 0.0)
    assert (found.probability_difference, found.kl_divergence, found.echo) == (None, None, None)
    assert not compare("a text", Answer(), Answer(), 5).says_anything


def _record(number: int) -> MirrorRecord:
    made = event(number)
    return MirrorRecord(
        event_id=str(number), event_time=made.event_time, service="shop", model_name="words", text="a text"
    )
