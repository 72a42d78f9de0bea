"""The demo's corpus, model, traffic and scrape."""

from __future__ import annotations

import http.server
import json
import random
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tokenizers import Tokenizer

from mlmon.demo.corpus import docstring_sentences, labelled_queries, query, travel_queries
from mlmon.demo.encoder import DIMENSION, Encoder
from mlmon.demo.figures import Page, scrape
from mlmon.demo.intents import BANKING, TRAVEL
from mlmon.demo.processes import run
from mlmon.demo.traffic import Traffic, request
from mlmon.demo.training import CASED, DAMAGED, TOKENIZER, WEIGHTS
from mlmon.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - texts, not secrets


# corpus


def test_queries_come_in_thousands_and_every_intent_as_often() -> None:
    rng = seeded(1)
    drawn = [query(rng) for _ in range(6000)]
    assert len({text for _, text in drawn}) > 4000
    assert len(BANKING) >= 15
    counts = [sum(intent == name for intent, _ in drawn) for name in BANKING]
    assert min(counts) > 0.7 * max(counts)
    assert not BANKING.keys() & TRAVEL.keys()


def test_the_same_seed_draws_the_same_queries_and_the_share_of_travel_is_as_asked() -> None:
    first, again = ([query(rng, 0.4) for _ in range(2000)] for rng in (seeded(3), seeded(3)))
    assert first == again
    share = sum(intent in TRAVEL for intent, _ in first) / len(first)
    assert 0.36 < share < 0.44
    assert request(seeded(3), 0.4)["text"] == first[0][1]


def test_texts_that_tokenizers_are_trained_on_are_there_without_a_network() -> None:
    assert len(docstring_sentences()) > 1000
    assert {intent for intent, _ in labelled_queries()} == BANKING.keys()
    assert {intent for intent, _ in travel_queries()} == TRAVEL.keys()
    assert not any("{" in text for _, text in labelled_queries() + travel_queries())


# model


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("demo")
    run("-m", "mlmon.demo.training", str(folder))
    return folder


def answers(
    folder: Path, weights: str, tokenizer: str, travel: float = 0.0, seed: int = 9
) -> tuple[np.ndarray, np.ndarray, float]:
    """Embeddings, probabilities of the labels, and accuracy, of 500 queries."""
    model, reads = Encoder.load(folder / weights), Tokenizer.from_file(str(folder / tokenizer))
    rng = seeded(seed)
    drawn = [query(rng, travel) for _ in range(500)]
    made = [model.answer(reads.encode(text).ids) for _, text in drawn]
    odds = np.array([answer.probabilities for answer in made])
    right = [model.labels[best] == intent for best, (intent, _) in zip(odds.argmax(1), drawn, strict=True)]
    return np.array([answer.embedding for answer in made]), odds, float(np.mean(right))


def test_the_model_knows_its_intents_and_its_embedding_has_full_rank(trained: Path) -> None:
    embeddings, odds, right = answers(trained, WEIGHTS, TOKENIZER)
    assert right > 0.9
    assert np.allclose(odds.sum(1), 1, atol=1e-4)
    assert embeddings.shape == (500, DIMENSION)
    assert np.linalg.matrix_rank(embeddings) == DIMENSION


def test_the_same_texts_make_the_same_model() -> None:
    rng = np.random.default_rng(0)
    rows = [(str(label), rng.integers(20 * label, 20 * label + 30, 12).tolist()) for label in range(4)] * 25
    first, again = (Encoder.train(rows, seed=5).answer(rows[0][1]) for _ in range(2))
    assert np.array_equal(first.embedding, again.embedding)
    other = Encoder.train(rows, seed=6).answer(rows[0][1])
    assert not np.allclose(first.embedding, other.embedding, atol=0.01)


def test_what_was_saved_answers_as_what_was_trained(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows = [(f"{n % 3}\u00e9", rng.integers(0, 500, 12).tolist()) for n in range(100)]
    model = Encoder.train(rows)
    model.save(tmp_path / "model")
    loaded = Encoder.load(tmp_path / "model")
    assert loaded.labels == model.labels
    for _, ids in rows[:5]:
        assert np.allclose(loaded.answer(ids).embedding, model.answer(ids).embedding, atol=1e-6)


def test_a_part_that_fails_is_named_with_what_it_said() -> None:
    with pytest.raises(SourceError, match=r"\(python -c .*\): no such thing"):
        run("-c", "raise SystemExit('no such thing')")
    assert run("-c", "print(7)") == "7\n"


def whitened_shift(reference: np.ndarray, now: np.ndarray) -> float:
    """Distance of the means in standard deviations of the reference; noise alone makes about √(2·64/500)."""
    spread = np.cov(reference.T) + 1e-6 * np.eye(DIMENSION)
    away = now.mean(0) - reference.mean(0)
    return float(np.sqrt(away @ np.linalg.solve(spread, away)))


def test_damage_travel_and_a_wrong_tokenizer_move_the_embeddings_and_another_draw_does_not(
    trained: Path,
) -> None:
    reference, _, usual = answers(trained, WEIGHTS, TOKENIZER)
    moved = {
        "again": answers(trained, WEIGHTS, TOKENIZER, seed=10),
        "travel": answers(trained, WEIGHTS, TOKENIZER, travel=0.4, seed=10),
        "damaged": answers(trained, DAMAGED, TOKENIZER, seed=10),
        "cased": answers(trained, WEIGHTS, CASED, seed=10),
    }
    shifts = {name: whitened_shift(reference, now[0]) for name, now in moved.items()}
    assert shifts.pop("again") < 0.7
    assert min(shifts.values()) > 1.0, shifts
    assert abs(moved["damaged"][2] - usual) < 0.1  # nobody would notice by the answers


def test_a_text_of_nothing_known_is_answered(trained: Path) -> None:
    model = Encoder.load(trained / WEIGHTS)
    for ids in ([], [1], [1, 1, 1]):
        answer = model.answer(ids)
        assert np.isfinite(answer.embedding).all()
        assert answer.probabilities.sum() == pytest.approx(1, abs=1e-4)


# traffic and scrape


@contextmanager
def server(status: int, body: str) -> Iterator[tuple[int, list[dict[str, object]]]]:
    """A server on loopback that gives one answer to everything; yields its port and what was posted."""
    posted: list[dict[str, object]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.do_GET()

        def log_message(self, *_args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield running.server_port, posted
        finally:
            running.shutdown()
            thread.join()


def until(done: object) -> None:
    """Wait for a condition, a minute at most."""
    deadline = time.monotonic() + 60
    while not done():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_traffic_follows_the_service_and_counts_what_was_not_answered_200() -> None:
    with server(200, "{}") as (first, early), server(503, "{}") as (second, late):
        port = first
        traffic = Traffic(lambda: port, 400.0, clients=2)
        traffic.start()
        until(lambda: traffic.answered >= 20)
        assert traffic.failed == 0
        traffic.travel = 1.0
        port = second
        until(lambda: traffic.failed >= 20)
        traffic.stop()
    assert traffic.answered == len(early)
    assert traffic.failed == len(late)
    assert {"text", "channel", "customer_years"} == early[0].keys()


_METRICS = """\
# TYPE mlmon_requests_total counter
mlmon_requests_total{service="s",status="ok"} 90
mlmon_requests_total{service="s",status="error"} 2
mlmon_requests_total{service="s",status="timeout"} 1
# TYPE mlmon_pager_alarm gauge
mlmon_pager_alarm{service="s",model="m"} ALARM
mlmon_pager_evidence{service="s",model="m"} 12
mlmon_pager_cause{service="s",model="m",version="1",segment="",cause="tokenizer",field="tokenizer/unknown"} 1
mlmon_pager_pages_total{service="s",model="m"} 2
mlmon_drift_effect{segment="",monitor="embeddings",field="shift"} 0.5
mlmon_drift_tolerance{segment="",monitor="embeddings",field="shift"} 0.1
mlmon_drift_alarm{segment="",monitor="embeddings",field="shift"} 1
mlmon_drift_effect{segment="language=de",monitor="embeddings",field="shift"} 9
mlmon_drift_tolerance{segment="language=de",monitor="embeddings",field="shift"} 0.1
mlmon_drift_alarm{segment="language=de",monitor="embeddings",field="shift"} 0
"""


def test_a_scrape_reads_the_page_and_the_fields_over_all_segments() -> None:
    with server(200, _METRICS.replace("ALARM", "1")) as (port, _):
        found = scrape(port)
    assert found is not None
    assert (found.requests, found.errors, found.evidence, found.pages) == (93, 3, 12, 2)
    assert found.page == Page("tokenizer", "tokenizer/unknown")
    assert found.drift == {"embeddings/shift": (0.5, 0.1, True)}
    assert (found.threshold, found.unknown_ratio) == (None, None)
    with server(200, _METRICS.replace("ALARM", "0")) as (port, _):
        quiet = scrape(port)
    assert quiet is not None
    assert quiet.page is None


def test_a_scrape_that_fails_is_none() -> None:
    with server(500, "failed; the log says why") as (port, _):
        assert scrape(port) is None
    assert scrape(port) is None
