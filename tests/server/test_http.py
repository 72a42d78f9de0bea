"""What HTTP adds: limits, lanes, timeouts, refusals, the token, the Open Inference Protocol, metrics."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from server_kit import Faulty, Held, Narrow, ask, configured, read_metrics, run, talking, until

from mlmon.catalog import METRICS
from mlmon.errors import ConfigError
from mlmon.server.app import build_server
from mlmon.server.web.guard import read_token
from mlmon.server.work.jobs import Lane
from mlmon.server.work.runner import Runner

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from mlmon.server.model import LoadedModel

MASK = {"inputs": "the [MASK] sat"}


def metric(text: str, name: str, *labels: str) -> float:
    return read_metrics(text)[name, labels]


async def metrics(client: httpx.AsyncClient) -> str:
    return (await client.get("/metrics")).text


def test_answers_say_what_answered_and_how_long_each_part_took(bert: LoadedModel) -> None:
    (answer,) = ask(bert, ("/fill-mask", MASK), name="org/my model", version="7")
    headers = answer.headers
    assert headers["x-mlmon-model"] == "org/my%20model/7"
    assert headers["x-mlmon-model-digest"] == bert.info.model_digest
    assert headers["x-mlmon-tokenizer-digest"] == bert.info.tokenizer_digest
    assert headers["x-mlmon-batch-size"] == "1"
    parts = dict(part.split(";dur=") for part in headers["server-timing"].split(", "))
    assert list(parts) == ["tokenize", "queue", "inference"]
    assert all(float(value) >= 0 for value in parts.values())


def test_a_body_that_is_too_large_is_refused_told_or_not(bert: LoadedModel) -> None:
    server = build_server(bert, configured(limits={"body_bytes": 2000}))

    async def chunks() -> Any:
        for _ in range(5):
            yield b" " * 500

    async def work() -> list[httpx.Response]:
        async with talking(server) as client:
            return [
                await client.post("/fill-mask", content=b" " * 2001),
                await client.post("/fill-mask", content=chunks()),
                await client.post("/fill-mask", json=MASK, headers={"content-encoding": "gzip"}),
                await client.post("/fill-mask", content=b'{"inputs": "\xff"}'),
                await client.post("/fill-mask", content=b"[" * 1900),
                await client.post("/fill-mask", content=b""),
                await client.post("/fill-mask", json=MASK),
            ]

    told, untold, compressed, *malformed, fine = run(work())
    assert (told.status_code, told.json()["got"]) == (413, "2001 bytes")
    assert (untold.status_code, untold.json()["got"]) == (413, "more")
    assert (compressed.status_code, compressed.json()["got"]) == (422, "one in gzip")
    assert [(answer.status_code, answer.json()["error_type"]) for answer in malformed] == [
        (422, "malformed")
    ] * 3
    assert fine.status_code == 200


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x-mlmon-lane": "fast"}, "the header x-mlmon-lane: interactive or shadow"),
        ({"x-mlmon-timeout": "soon"}, "a timeout in seconds, above 0"),
        ({"x-mlmon-timeout": "0"}, "a timeout in seconds, above 0"),
        ({"x-mlmon-timeout": "nan"}, "a timeout in seconds, above 0"),
        ({"x-mlmon-probe": "x" * 129}, "the header x-mlmon-probe: 1 to 128 printable ASCII characters"),
    ],
)
def test_headers_are_checked(bert: LoadedModel, headers: dict[str, str], expected: str) -> None:
    server = build_server(bert, configured())

    async def work() -> httpx.Response:
        async with talking(server) as client:
            return await client.post("/fill-mask", json=MASK, headers=headers)

    answer = run(work())
    assert (answer.status_code, answer.json()["expected"]) == (422, expected)


def held_server(bert: LoadedModel, **tables: Any) -> tuple[Held, Any]:
    held = Held(Runner(bert.encoder, bert.head))
    server = build_server(bert, configured(**tables), runner=held)
    held.entered.acquire()  # the batch that tried the model
    held.batches.clear()
    return held, server


async def entered(held: Held) -> None:
    await asyncio.to_thread(held.entered.acquire, timeout=60)


@pytest.mark.parametrize("where", ["header", "query"])
def test_a_request_is_given_up_when_its_time_is_over(bert: LoadedModel, where: str) -> None:
    held, server = held_server(bert)
    late: dict[str, Any] = (
        # long enough to reach the device on a busy machine
        {"headers": {"x-mlmon-timeout": "0.6"}} if where == "header" else {"params": {"timeout": 0.6}}
    )

    async def work() -> None:
        async with talking(server) as client:
            held.open.clear()
            on_device = asyncio.create_task(client.post("/fill-mask", json=MASK, **late))
            await entered(held)
            waiting = asyncio.create_task(client.post("/embed", json=MASK, **late))
            answers = [await on_device, await waiting]
            assert [answer.status_code for answer in answers] == [504, 504]
            assert [answer.json()["error_type"] for answer in answers] == ["timeout"] * 2
            assert server.serving.scheduler.waiting(Lane.INTERACTIVE) == (0, 0)
            text = await metrics(client)
            assert metric(text, "mlmon_server_given_up_jobs_total", "interactive", "timeout") == 2
            assert metric(text, "mlmon_server_open_requests") == 0
            held.open.set()
            assert (await client.post("/fill-mask", json=MASK)).status_code == 200

    run(work())
    assert len(held.batches) == 2, "what waited was never begun"


def test_nobody_can_ask_for_more_time_than_the_server_gives(bert: LoadedModel) -> None:
    held, server = held_server(bert, limits={"timeout_seconds": 0.1})

    async def work() -> int:
        async with talking(server) as client:
            held.open.clear()
            answer = await client.post("/fill-mask", json=MASK, headers={"x-mlmon-timeout": "1000"})
            held.open.set()
            return answer.status_code

    assert run(work()) == 504


def test_lanes_have_queues_of_their_own_and_full_ones_say_when_to_come_back(bert: LoadedModel) -> None:
    held, server = held_server(bert, batch={"queue_jobs": 2, "shadow_queue_jobs": 1})
    shadow = {"headers": {"x-mlmon-lane": "shadow"}}

    async def work() -> None:
        async with talking(server) as client:
            held.open.clear()
            tasks = [asyncio.create_task(client.post("/fill-mask", json=MASK))]
            await entered(held)
            more_work = [client.post("/fill-mask", json=MASK, **more) for more in ({}, {}, shadow)]
            tasks += [asyncio.create_task(work) for work in more_work]
            await asyncio.to_thread(until, lambda: server.serving.scheduler.waiting(Lane.SHADOW)[0] == 1)
            for more in ({}, shadow):
                answer = await client.post("/fill-mask", json=MASK, **more)
                assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
                assert answer.json()["error_type"] == "full"
            held.open.set()
            assert [(await task).status_code for task in tasks] == [200] * 4
            text = await metrics(client)
            for lane in Lane:
                assert metric(text, "mlmon_server_refused_requests_total", lane, "jobs") == 1
            assert metric(text, "mlmon_server_requests_total", "200", "shadow", "/fill-mask") == 1
            assert metric(text, "mlmon_server_requests_total", "429", "interactive", "/fill-mask") == 1
            assert metric(text, "mlmon_server_queue_seconds_count", "shadow") == 1

    run(work())


def test_more_requests_than_may_be_open_are_refused_unread(bert: LoadedModel) -> None:
    held, server = held_server(bert, limits={"open_requests": 1})

    async def unread() -> Any:
        raise AssertionError("the body was read")
        yield b""

    async def work() -> None:
        async with talking(server) as client:
            held.open.clear()
            first = asyncio.create_task(client.post("/fill-mask", json=MASK))
            await entered(held)
            answer = await client.post("/embed", content=unread())
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
            assert (await client.get("/health/ready")).status_code == 200, "probes need no place"
            held.open.set()
            assert (await first).status_code == 200
            assert (await client.post("/embed", json=MASK)).status_code == 200

    run(work())


def test_running_out_of_memory_is_told_to_those_it_concerns(bert: LoadedModel) -> None:
    narrow = Narrow(Runner(bert.encoder, bert.head), 12)
    server = build_server(bert, configured(), runner=narrow)

    async def work() -> tuple[httpx.Response, httpx.Response, str]:
        async with talking(server) as client:
            fits = await client.post("/embed", json={"inputs": ["the cat sat"] * 9})
            large = await client.post("/embed", json={"inputs": "cat " * 20})
            return fits, large, await metrics(client)

    fits, large, text = run(work())
    assert fits.status_code == 200
    assert np.ptp(fits.json(), axis=0).max() < 1e-6
    assert (large.status_code, large.headers["retry-after"]) == (503, "1")
    assert large.json()["error_type"] == "out_of_memory"
    assert metric(text, "mlmon_server_failed_jobs_total", "interactive", "memory") == 1
    assert metric(text, "mlmon_server_memory_splits_total") >= 1


def test_a_fault_of_the_server_is_told_as_one_and_its_probes_turn_when_it_stays(
    bert: LoadedModel, caplog: Any
) -> None:
    faulty = Faulty(Runner(bert.encoder, bert.head))
    server = build_server(bert, configured(), runner=faulty)

    async def work() -> None:
        async with talking(server) as client:
            faulty.error = RuntimeError("the device is lost")
            for _ in range(3):
                assert (await client.get("/health/live")).status_code == 200
                answer = await client.post("/fill-mask", json=MASK)
                assert answer.status_code == 500
                assert answer.json()["got"] == "RuntimeError"
            for path in ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"):
                assert (await client.get(path)).status_code == 503
            assert metric(await metrics(client), "mlmon_server_ready") == 0

    with caplog.at_level("CRITICAL"):
        run(work())


def test_what_nobody_thought_of_is_told_as_a_fault_on_every_route(
    bert: LoadedModel, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    server = build_server(bert, configured(name="m"))

    def encode(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    async def work() -> None:
        async with talking(server) as client:
            with monkeypatch.context() as patch:
                patch.setattr(server.serving.setting.texts, "encode", encode)
                for path, body in (("/fill-mask", MASK), ("/v2/models/m/infer", infer(["[MASK]"]))):
                    answer = await client.post(path, json=body)
                    assert answer.status_code == 500
                    assert "got ZeroDivisionError; see the server's log" in answer.json()["error"]
            assert (await client.post("/fill-mask", json=MASK)).status_code == 200
            # a path is never taken for the pattern of one
            assert (await client.post("/v2/models/{model:path}/infer", json=MASK)).status_code == 422
            assert (await client.post("/v2/models/{model:path}/infer", json=infer(["a"]))).status_code == 404
            assert metric(await metrics(client), "mlmon_server_open_requests") == 0

    with caplog.at_level("CRITICAL"):
        run(work())


def test_a_token_is_asked_of_everyone_but_the_probes(bert: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0123456789abcdef\n")
    server = build_server(bert, configured(token_file=str(tmp_path / "token")))
    right = {"authorization": "Bearer 0123456789abcdef"}

    async def work() -> None:
        async with talking(server) as client:
            for path in ("/fill-mask", "/v1/embeddings", "/v2/models/x/infer", "/nowhere"):
                for headers in (
                    {},
                    {"authorization": "Bearer 0123456789abcdeF"},
                    {"authorization": "Basic x"},
                ):
                    answer = await client.post(path, json=MASK, headers=headers)
                    assert answer.status_code == 401
                    assert answer.headers["www-authenticate"] == "Bearer"
                    assert "0123" not in answer.text
            for path in ("/metrics", "/info", "/openapi.json", "/v2", "/v1/models"):
                assert (await client.get(path)).status_code == 401
                assert (await client.get(path, headers=right)).status_code == 200
            for path in ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"):
                assert (await client.get(path)).status_code == 200
            assert (await client.post("/fill-mask", json=MASK, headers=right)).status_code == 200
            twice = [("authorization", "Bearer wrong"), ("authorization", "Bearer 0123456789abcdef")]
            assert (await client.get("/info", headers=twice)).status_code == 401

    run(work())


def test_a_token_that_cannot_be_used_ends_the_start(tmp_path: Path) -> None:
    assert read_token(None, None) is None
    assert read_token("T", None, {"T": "x" * 16}) is not None
    with pytest.raises(ConfigError, match=r"variable T .*at least 16 characters, got 0"):
        read_token("T", None, {})
    with pytest.raises(ConfigError, match=r"file .*nothing \(server.token_file\): expected a readable file"):
        read_token(None, str(tmp_path / "nothing"))
    (tmp_path / "short").write_text("secret\n")
    with pytest.raises(ConfigError, match="got 6") as told:
        read_token(None, str(tmp_path / "short"))
    assert "secret" not in str(told.value)


def infer(texts: list[Any], **more: Any) -> dict[str, Any]:
    tensor = {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": texts}
    return {"inputs": [tensor]} | more


def test_the_open_inference_protocol_gives_what_the_other_routes_give(bert: LoadedModel) -> None:
    texts = ["the [MASK] sat", "[MASK] and [MASK]"]
    path = f"/v2/models/{bert.info.name}/infer"
    parameters = {"top_k": 3, "targets": ["cat", "dog", "sea", "a"]}
    outputs = [{"name": name} for name in ("score", "embedding", "token_id")]
    masks, vectors, both, only = ask(
        bert,
        ("/fill-mask", {"inputs": texts, "parameters": parameters}),
        ("/embed", {"inputs": texts}),
        (path, infer(texts, id="abc", parameters=parameters, outputs=outputs)),
        (path, infer(["a cat"], outputs=[{"name": "embedding"}], parameters={"normalize": False})),
    )
    first, second = masks.json()
    rows = [first, *second]
    reply = both.json()
    assert reply["id"] == "abc"
    assert (reply["model_name"], reply["model_version"]) == (bert.info.name, bert.info.model_digest[:12])
    score, embedding, token = reply["outputs"]
    assert [output["name"] for output in reply["outputs"]] == ["score", "embedding", "token_id"]
    assert (score["shape"], score["datatype"]) == ([3, 3], "FP32")
    assert score["data"] == pytest.approx([c["score"] for row in rows for c in row], rel=1e-4)
    assert (token["shape"], token["datatype"]) == ([3, 3], "INT64")
    assert token["data"] == [c["token"] for row in rows for c in row]
    assert (embedding["shape"], embedding["datatype"]) == ([2, 32], "FP32")
    np.testing.assert_allclose(np.reshape(embedding["data"], (2, 32)), vectors.json(), atol=1e-5)
    (raw,) = only.json()["outputs"]
    assert "id" not in only.json()
    assert abs(np.linalg.norm(raw["data"]) - 1) > 0.01


def test_masks_are_named_by_text_and_token_and_answered_where_no_output_is_named(bert: LoadedModel) -> None:
    nested = infer(["[MASK] and [MASK]"])
    nested["inputs"][0] |= {"shape": [1, 1], "data": [["[MASK] and [MASK]"]]}
    path = f"/v2/models/{bert.info.name}/versions/{bert.info.model_digest[:12]}/infer"
    (answer,) = ask(bert, (path, nested))
    outputs = {output["name"]: output for output in answer.json()["outputs"]}
    assert list(outputs) == ["mask_text", "mask_token", "token_id", "token", "score"]
    assert outputs["mask_text"]["data"] == [0, 0]
    assert outputs["mask_token"]["data"] == [0, 2]
    tokens = [bert.tokenizer.id_to_token(i) or "" for i in outputs["token_id"]["data"]]
    assert outputs["token"]["data"] == tokens


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"inputs": []}, 422, "length >= 1"),
        ({"outputs": [{"name": "logits"}]}, 422, "got 'logits'"),
        ({"parameters": {"temperature": 1}}, 422, "temperature"),
        ({"parameters": {"binary_data_output": True}}, 422, "tensors in JSON"),
        ({"inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["x"]}]}, 422, "1 values"),
        ({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [1]}]}, 422, "not texts"),
        ({"inputs": [{"name": "text", "shape": [0], "datatype": "BYTES", "data": []}]}, 422, "at least one"),
        ({"inputs": [{"name": "ids", "shape": [1], "datatype": "INT64", "data": [1]}]}, 422, "ids of INT64"),
    ],
)
def test_protocol_mistakes_are_told_in_its_words(
    bert: LoadedModel, change: dict[str, Any], status: int, said: str
) -> None:
    (answer,) = ask(bert, (f"/v2/models/{bert.info.name}/infer", infer(["[MASK]"]) | change))
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert said in answer.json()["error"]


def test_routes_that_tell(bert: LoadedModel) -> None:
    name, version = "org/model", "3"
    server = build_server(bert, configured(name=name, version=version))

    async def work() -> None:
        async with talking(server) as client:

            async def got(path: str, status: int = 200) -> Any:
                answer = await client.get(path)
                assert answer.status_code == status, path
                return answer.json()

            info = await got("/info")
            assert info["model"]["name"] == name
            assert info["model"]["model_digest"] == bert.info.model_digest
            assert info["limits"]["text_tokens"] == 38
            assert info["batch"]["batch_tokens"] == 4096
            assert info["queue"] == {
                "interactive": {"jobs": 0, "tokens": 0},
                "shadow": {"jobs": 0, "tokens": 0},
            }
            assert (await got("/v1/models"))["data"][0]["id"] == name
            assert (await got("/v2"))["name"] == "mlmon"
            model = await got(f"/v2/models/{name}/versions/{version}")
            assert model == await got(f"/v2/models/{name}")
            assert model["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
            assert (await got(f"/v2/models/{name}/ready")) == {"ready": True, "name": name}
            assert (await got(f"/v2/models/{name}/versions/{version}/ready"))["ready"]
            assert "error" in await got(f"/v2/models/{name}/versions/4/ready", 404)
            assert "error" in await got("/v2/models/other", 404)
            assert (await got("/nowhere", 404))["error_type"] == "not_found"
            wrong = await client.get("/fill-mask")
            assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")

    run(work())


def test_tokens_come_with_their_characters_and_words(bert: LoadedModel) -> None:
    text = "unbelievably early, cat"
    special, bare, several = ask(
        bert,
        ("/tokenize", {"inputs": text}),
        ("/tokenize", {"inputs": text, "parameters": {"add_special_tokens": False}}),
        ("/tokenize", {"inputs": [text, ""]}),
    )
    (tokens,) = special.json()
    assert [token["special"] for token in (tokens[0], tokens[-1])] == [True, True]
    assert bare.json() == [tokens[1:-1]]
    assert [token["id"] for token in tokens] == bert.tokenizer.encode(text).ids
    words: dict[int, list[str]] = {}
    for token in bare.json()[0]:
        words.setdefault(token["word"], []).append(text[token["start"] : token["stop"]])
    assert ["".join(parts) for parts in words.values()] == ["unbelievably", "early", ",", "cat"]
    assert any(len(parts) > 1 for parts in words.values())
    assert [len(row) for row in several.json()] == [len(tokens), 2]


def test_metrics_are_those_of_the_catalog_and_their_labels_are_bounded(bert: LoadedModel) -> None:
    server = build_server(bert, configured(price_per_gpu_hour=3600.0, events={"kind": "none"}))

    async def work() -> tuple[str, str]:
        async with talking(server) as client:
            for path in ("/fill-mask", "/fill-mask", "/embed", "/nowhere", "/a/b"):
                await client.post(path, json=MASK)
            await client.post("/embed", json={"inputs": "cat " * 90, "parameters": {"long": "truncate"}})
            await client.post("/embed", json={"inputs": "cat " * 90, "parameters": {"long": "window"}})
            openmetrics = await client.get("/metrics", headers={"accept": "application/openmetrics-text"})
            assert openmetrics.text.endswith("# EOF\n")
            return await metrics(client), openmetrics.headers["content-type"]

    text, content_type = run(work())
    assert content_type.startswith("application/openmetrics-text")
    shown = {
        line.split()[2].removesuffix("_total").removesuffix("_info")
        for line in text.splitlines()
        if line.startswith("# TYPE")
    }
    shown = {name.removesuffix("_created") for name in shown}
    known = {name for name in METRICS if name.startswith("mlmon_server_")}
    gpu = {name for name in known if name.startswith("mlmon_server_gpu_")}
    assert shown == known - gpu, "all of them, but for what only a GPU has"
    assert metric(text, "mlmon_server_requests_total", "404", "interactive", "other") == 2
    assert metric(text, "mlmon_server_truncated_tokens_total") == 52
    assert metric(text, "mlmon_server_truncated_texts_total") == 1
    assert metric(text, "mlmon_server_windowed_texts_total") == 1
    assert metric(text, "mlmon_server_used_cost_total", "interactive") == pytest.approx(
        metric(text, "mlmon_server_device_busy_seconds_total", "interactive")
    )
    assert metric(text, "mlmon_server_allocated_cost_total") >= metric(
        text, "mlmon_server_used_cost_total", "interactive"
    )
    assert metric(text, "mlmon_server_ready") == 1
