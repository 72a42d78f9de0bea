"""What mlmon is told of each request: read back from a real spool."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from server_kit import Faulty, Held, configured, run, talking

from mlmon.attach.text import HfTokenizerStatistics
from mlmon.events import DecodeConfig, Decoder
from mlmon.events.privacy import InputHasher
from mlmon.server.app import build_server
from mlmon.server.work.runner import Runner
from mlmon.sources.spool import SpoolConfig, SpoolSource

if TYPE_CHECKING:
    from pathlib import Path

    from server_kit import Made

    from mlmon.server.app import Server
    from mlmon.server.model import LoadedModel

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
KEY = b"0123456789abcdef"


def events_of(spool: Path) -> dict[str, dict[str, Any]]:
    """Every event in a spool by its id, without the fields that are null."""
    source, decoder = SpoolSource(SpoolConfig(str(spool), stop_at_end=True)), Decoder(DecodeConfig())
    rows: list[dict[str, Any]] = []
    while not source.finished:
        polled = source.poll(0.0)
        for partition in polled.assigned:
            source.seek(partition, None)
        for chunk in polled.chunks:
            decoded = decoder.decode(list(chunk.records), time.time_ns() // 1000)
            assert not decoded.rejects
            assert decoded.batch is not None
            rows += decoded.batch.records.to_pylist()
    source.close()
    found = {row["event_id"]: {k: v for k, v in row.items() if v is not None} for row in rows}
    assert len(found) == len(rows)
    return found


def watched(loaded: LoadedModel, spool: Path, runner: Any = None, **events: Any) -> Server:
    tables = {"kind": "spool", "service": "search", "spool": {"directory": str(spool)}, **events}
    return build_server(loaded, configured(name="m", version="v1", events=tables), runner=runner)


def post(server: Server, *requests: tuple[str, Any, dict[str, str]]) -> list[Any]:
    """Send requests, end the server, and give the answers."""

    async def work() -> list[Any]:
        async with talking(server) as client:
            return [await client.post(path, json=body, headers=headers) for path, body, headers in requests]

    found: list[Any] = run(work())
    return found


def test_an_event_says_what_was_asked_and_answered(
    models: dict[str, Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", KEY.decode())
    loaded = models["bert"].load()
    server = watched(
        loaded,
        tmp_path / "s",
        embedding="mean",
        top_k=3,
        privacy={"hash_key_env": "KEY"},
        deployment="canary",
    )
    texts = ["unbelievably [MASK] xyzzy", "a [MASK] cat"]
    headers = {"x-request-id": "one", "traceparent": TRACE, "x-mlmon-probe": "golden-1"}
    fill, vectors = post(
        server, ("/fill-mask", {"inputs": texts}, headers), ("/embed", {"inputs": texts}, {})
    )
    event = events_of(tmp_path / "s")["one"]
    for name in ("queue_seconds", "tokenize_seconds", "inference_seconds"):
        assert 0 <= event.pop(name) <= event["latency_seconds"]
    assert event.pop("event_time") is not None
    assert 0 < event.pop("latency_seconds") < 60
    assert event.pop("instance")
    np.testing.assert_allclose(event.pop("embedding"), vectors.json()[0], atol=2e-3)
    best = fill.json()[0]
    assert event.pop("top_scores") == pytest.approx([row["score"] for row in best[:3]], rel=1e-5)
    assert event.pop("confidence") == pytest.approx(best[0]["score"], rel=1e-6)
    (seen,) = Runner(loaded.encoder, loaded.head).begin(_pieces(loaded, texts[0])).land()
    assert event.pop("entropy") == pytest.approx(float(seen.top_entropy[0]), rel=1e-4)
    expected = dict(HfTokenizerStatistics(loaded.tokenizer).measure(texts))
    del expected["tokenizer_digest"]
    assert event == expected | {
        "event_id": "one",
        "service": "search",
        "model_name": "m",
        "model_version": "v1",
        "model_digest": loaded.info.model_digest,
        "tokenizer_digest": loaded.info.tokenizer_digest,
        "deployment": "canary",
        "task": "fill-mask",
        "status": "ok",
        "batch_size": 1,
        "input_hash": InputHasher(KEY).hash(texts),
        "prediction": best[0]["token_str"],
        "top_labels": [row["token_str"] for row in best[:3]],
        "probe_id": "golden-1",
        "sampling_weight": 1.0,
        "trace_id": TRACE.split("-")[1],
        "span_id": TRACE.split("-")[2],
    }
    assert expected["masked_tokens"] == 2
    assert expected["unknown_tokens"] > 0


def _pieces(loaded: LoadedModel, text: str) -> Any:
    from mlmon.server.work.fill_mask import FillMask, FillOptions
    from mlmon.server.work.task import Setting
    from mlmon.server.work.text import Texts
    from mlmon.server.work.windows import LongText

    texts = Texts(loaded.tokenizer, loaded.special, loaded.info.max_length)
    setting = Setting(texts, loaded.info.vocabulary_size, 64, 10_000)
    return FillMask(setting, texts.encode([text], LongText()), FillOptions()).pieces


def test_each_route_tells_its_task_and_shadow_requests_are_told_apart(
    bert: LoadedModel, tmp_path: Path
) -> None:
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["[MASK]"]}
    long = {"inputs": "cat " * 50, "parameters": {"long": "truncate"}}
    score = {"inputs": "the cat sat", "parameters": {"method": "masked", "mask_ratio": 1, "repeats": 2}}
    post(
        watched(bert, tmp_path / "s"),
        ("/embed", long, {"x-request-id": "embed", "x-mlmon-lane": "shadow"}),
        ("/score", score, {"x-request-id": "score"}),
        ("/score", {"inputs": "a"}, {"x-request-id": "pll"}),
        ("/v1/embeddings", {"input": [5, 6]}, {"x-request-id": "ids"}),
        ("/v2/models/m/infer", {"inputs": [tensor]}, {"x-request-id": "infer"}),
        ("/tokenize", {"inputs": "a"}, {"x-request-id": "no inference"}),
    )
    found = events_of(tmp_path / "s")
    tasks = {name: event["task"] for name, event in found.items()}
    assert tasks == {
        "embed": "embedding",
        "score": "score",
        "pll": "score",
        "ids": "embedding",
        "infer": "fill-mask",
    }
    assert found["embed"]["deployment"] == "shadow"
    assert "deployment" not in found["score"]
    assert (found["embed"]["tokens"], found["embed"]["truncated_tokens"]) == (38, 12)
    assert found["score"]["labelled_masked_tokens"] == 6
    assert 0 <= found["score"]["right_masked_tokens"] <= 6
    assert "labelled_masked_tokens" not in found["pll"]
    assert found["ids"]["tokens"] == 2
    assert not {"characters", "input_hash"} & found["ids"].keys()
    assert found["infer"]["prediction"]
    assert not any("embedding" in event for event in found.values()), "they are only carried where asked for"


@pytest.mark.parametrize("task", ["fill-mask", "embed", "score"])
def test_the_embedding_an_event_carries_is_the_first_texts(
    bert: LoadedModel, tmp_path: Path, task: str
) -> None:
    text = "the [MASK] sat " + "on the mat " * 20
    parameters = {"long": "window"} | ({"pooling": "cls", "normalize": False} if task == "embed" else {})
    pooling = "cls"
    server = watched(bert, tmp_path / "s", embedding=pooling)
    body = {"inputs": [text, "a [MASK]"], "parameters": parameters}
    expected = {"inputs": text, "parameters": {"long": "window", "pooling": pooling}}
    answer, plain = post(server, (f"/{task}", body, {"x-request-id": "a"}), ("/embed", expected, {}))
    assert answer.status_code == 200, answer.text
    event = events_of(tmp_path / "s")["a"]
    vector = np.array(event["embedding"])
    np.testing.assert_allclose(vector / np.linalg.norm(vector), plain.json()[0], atol=2e-3)


def test_refusals_become_events_without_contents(bert: LoadedModel, tmp_path: Path, caplog: Any) -> None:
    faulty = Faulty(Runner(bert.encoder, bert.head))
    server = watched(bert, tmp_path / "s", faulty)

    async def work() -> None:
        async with talking(server) as client:

            async def send(name: str, body: Any, **headers: str) -> int:
                headers |= {"x-request-id": name}
                return (await client.post("/fill-mask", json=body, headers=headers)).status_code

            assert await send("ok", {"inputs": "[MASK]"}) == 200
            assert await send("mistake", {"inputs": "none"}) == 422
            assert await send("long", {"inputs": "[MASK] " + "cat " * 50}) == 422
            faulty.error = RuntimeError("lost")
            assert await send("fault", {"inputs": "[MASK]"}) == 500

    with caplog.at_level("CRITICAL"):
        run(work())
    found = events_of(tmp_path / "s")
    assert {name: event["status"] for name, event in found.items()} == {
        "ok": "ok",
        "mistake": "client_error",
        "long": "client_error",
        "fault": "error",
    }
    for name in ("mistake", "long", "fault"):
        assert not {"tokens", "input_hash", "prediction", "inference_seconds"} & found[name].keys()
        assert found[name]["task"] == "fill-mask"


def test_what_is_not_sampled_is_no_event_but_for_errors(bert: LoadedModel, tmp_path: Path) -> None:
    held = Held(Runner(bert.encoder, bert.head))
    server = watched(bert, tmp_path / "s", held, sample_rate=0.25, embedding="mean")

    async def work() -> None:
        async with talking(server) as client:
            for number in range(200):
                headers = {"x-request-id": f"r{number}"}
                assert (await client.post("/embed", json={"inputs": "a"}, headers=headers)).status_code == 200
            held.open.clear()
            headers = {"x-request-id": "late", "x-mlmon-timeout": "0.02"}
            answers = [
                client.post("/embed", json={"inputs": "a"}, headers=headers | {"x-request-id": str(i)})
                for i in range(20)
            ]
            assert {answer.status_code for answer in await asyncio.gather(*answers)} == {504}
            held.open.set()

    run(work())
    found = events_of(tmp_path / "s")
    late = [event for event in found.values() if event["status"] == "timeout"]
    assert len(late) == 20
    assert {event["sampling_weight"] for event in late} == {1.0}
    kept = [event for event in found.values() if event["status"] == "ok"]
    assert 25 < len(kept) < 80
    assert {event["sampling_weight"] for event in kept} == {4.0}
    assert all("embedding" in event for event in kept)
    stats = server.emitter.stats() if server.emitter else None
    assert stats is not None
    assert (stats.dropped, stats.tap_errors, stats.emitted) == (0, 0, len(found))


def test_events_wait_in_bounded_memory(bert: LoadedModel, tmp_path: Path) -> None:
    """What waits is counted with what it keeps: texts, tokens and vectors."""
    server = watched(bert, tmp_path / "s", emitter={"queue_bytes": 40_000, "batch_age_seconds": 1000})
    emitter = server.emitter
    assert emitter is not None
    (tmp_path / "s").write_text("a file where the directory should be")  # nothing can be written
    text = "cat " * 500

    async def work() -> int:
        most = 0
        async with talking(server) as client:
            for _ in range(60):
                await client.post("/embed", json={"inputs": text, "parameters": {"long": "truncate"}})
                most = max(most, emitter.stats().queue_bytes)
            (tmp_path / "s").unlink()
            return most

    assert 20_000 < run(work()) <= 40_000
    assert emitter.stats().dropped > 20
