"""Clients of each kind: `mlmon serve` on a port, and servers that answer as others do."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from server_kit import sentences
from shadow_kit import JsonServer, masked

from mlmon.errors import ConfigError
from mlmon.shadow.clients import Answer, client_for
from mlmon.shadow.config import EndpointConfig
from mlmon.shadow.ranking import Ranked
from mlmon.shadow.replay import Replay
from mlmon.shadow.wire import ReplayError, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from server_kit import Made

    from mlmon.shadow.clients import Client

TEXTS = masked(sentences(12, seed=3))
RESULT = {"score": 0.5, "token_str": " tea", "token": 3, "sequence": "I like tea"}


def alike(found: list[Answer], expected: list[Answer]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.first.labels == b.first.labels
        assert a.first.scores == pytest.approx(b.first.scores, abs=1e-5)


_OPEN: list[Client | Wire] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Every connection is closed after its test."""
    yield
    while _OPEN:
        _OPEN.pop().close()


def client(url: str, *, lane: bool = True, **more: Any) -> Client:
    _OPEN.append(client_for(EndpointConfig(url=url, **more), lane=lane))
    return _OPEN[-1]  # type: ignore[return-value]


def wire_to(url: str, pauses: list[float] | None = None, **more: Any) -> Wire:
    sleep = [].append if pauses is None else pauses.append
    _OPEN.append(Wire(EndpointConfig(url=url, **more), sleep=sleep))
    return _OPEN[-1]  # type: ignore[return-value]


# --- mlmon serve


def test_answers_are_those_of_the_transformers_pipeline(server_url: str, model: Made) -> None:
    found = client(server_url).ask(TEXTS, "fill-mask", 5)
    pipeline = model.pipeline(top_k=5)
    for text, answer in zip(TEXTS, found, strict=True):
        expected = pipeline(text)
        theirs = Ranked.of([row["token_str"] for row in expected], [row["score"] for row in expected])
        assert answer.first.labels == theirs.labels
        assert answer.first.scores == pytest.approx(theirs.scores, abs=1e-5)
        assert answer.sequence == expected[0]["sequence"]


def test_one_text_or_several_and_one_mask_or_several(server_url: str) -> None:
    asked = client(server_url)
    (one,) = asked.ask(TEXTS[:1], "fill-mask", 3)
    alike([one], asked.ask(TEXTS[:2], "fill-mask", 3)[:1])
    two_masks = "the [MASK] sat on the [MASK]"
    (alone,) = asked.ask([two_masks], "fill-mask", 3)
    assert len(alone.rankings) == 2
    mixed = asked.ask([TEXTS[0], two_masks], "fill-mask", 3)
    assert [len(answer.rankings) for answer in mixed] == [1, 2]
    alike([alone], mixed[1:])


def test_the_open_inference_protocol_gives_the_same(server_url: str, model: Made) -> None:
    oip = client(server_url, kind="oip", model=model.load().info.name, input_name="text")
    alike(oip.ask(TEXTS, "fill-mask", 5), client(server_url).ask(TEXTS, "fill-mask", 5))


def test_embeddings_are_the_same_by_both_routes(server_url: str, model: Made) -> None:
    texts = sentences(5)
    ours = client(server_url).ask(texts, "embedding", 1)
    theirs = client(server_url, kind="openai", model=model.load().info.name).ask(texts, "embedding", 1)
    for a, b in zip(ours, theirs, strict=True):
        assert a.embedding is not None
        assert a.embedding == pytest.approx(b.embedding, abs=1e-6)


def test_masks_of_the_server_depend_on_the_seed_alone(server_url: str) -> None:
    asked = client(server_url)
    texts = sentences(8)
    first, again = asked.masked(texts, 1), asked.masked(texts[::-1], 1)[::-1]
    assert [one.tokens for one in first] == [one.tokens for one in again]
    assert [one.loss for one in first] == pytest.approx([one.loss for one in again], abs=1e-4)
    assert [one.loss for one in asked.masked(texts, 2)] != pytest.approx(
        [one.loss for one in first], abs=1e-3
    )


def test_an_mlmon_server_is_asked_in_its_shadow_lane() -> None:
    lanes = []

    def answer(_path: str, body: Any, headers: Any) -> Any:
        lanes.append(headers["x-mlmon-lane"])
        return 200, {}, [[RESULT]] * len(body["inputs"])

    with JsonServer(answer) as server:
        client(server.url).ask(["a [MASK]"], "fill-mask", 5)
        client(server.url, lane=False).ask(["a [MASK]"], "fill-mask", 5)
    assert lanes == ["shadow", None]


# --- shapes of others


SHAPES: list[tuple[str, Any, int, list[int]]] = [
    ("one text, one mask", [RESULT, RESULT], 1, [1]),
    ("one text, one mask, in a list", [[RESULT, RESULT]], 1, [1]),
    ("one text, two masks", [[RESULT], [RESULT]], 1, [2]),
    ("one text, two masks, in a list", [[[RESULT], [RESULT]]], 1, [2]),
    ("two texts", [[RESULT], [RESULT]], 2, [1, 1]),
    ("two texts, one with two masks", [[RESULT], [[RESULT], [RESULT]]], 2, [1, 2]),
    ("a class each", [{"label": "x", "score": 0.9}, {"label": "y", "score": 0.8}], 2, [1, 1]),
]


@pytest.mark.parametrize(
    ("reply", "count", "masks"), [case[1:] for case in SHAPES], ids=[c[0] for c in SHAPES]
)
def test_hugging_face_shapes(reply: Any, count: int, masks: list[int]) -> None:
    with JsonServer(lambda *_: (200, {}, reply)) as server:
        found = client(f"{server.url}/models/m", kind="hf").ask(["a [MASK]"] * count, "fill-mask", 5)
        assert [len(answer.rankings) for answer in found] == masks
        assert found[0].first.labels[0] in ("tea", "x")
        assert server.seen == [("/models/m", {"inputs": ["a [MASK]"] * count, "parameters": {"top_k": 5}})]


def test_token_embeddings_are_averaged() -> None:
    with JsonServer(lambda *_: (200, {}, [[[1.0, 3.0], [3.0, 5.0]], [[0.0, 1.0]]])) as server:
        found = client(server.url, kind="hf").ask(["a", "b"], "embedding", 1)
    assert [answer.embedding.tolist() for answer in found if answer.embedding is not None] == [[2, 4], [0, 1]]


@pytest.mark.parametrize("input_name", ["args", "inputs"])
def test_mlservers_runtime_answers_in_json_texts(input_name: str) -> None:
    def answer(path: str, body: Any, _headers: Any) -> Any:
        assert path == "/v2/models/bert/versions/3/infer"
        (tensor,) = body["inputs"]
        assert (tensor["name"], tensor["shape"], tensor["datatype"]) == (input_name, [2], "BYTES")
        data = [msgspec.json.encode([RESULT, RESULT]).decode() for _ in tensor["data"]]
        return 200, {}, {"outputs": [{"name": "output", "shape": [2, 1], "datatype": "BYTES", "data": data}]}

    with JsonServer(answer) as server:
        asked = client(server.url, kind="oip", model="bert", version="3", input_name=input_name)
        found = asked.ask(["a [MASK]", "b [MASK]"], "fill-mask", 5)
    assert (found[1].first, found[1].sequence) == (Ranked(("tea",), (0.5,)), "I like tea")


def test_flattened_answers_are_divided_among_the_texts() -> None:
    data = [msgspec.json.encode(RESULT | {"token_str": name}).decode() for name in "abcd"]
    reply = {"outputs": [{"name": "output", "data": data}]}
    with JsonServer(lambda *_: (200, {}, reply)) as server:
        asked = client(server.url, kind="oip", model="m")
        assert [one.first.labels for one in asked.ask(["x", "y"], "fill-mask", 2)] == [("a", "b"), ("c", "d")]
        with pytest.raises(ReplayError, match="4 answers to 3 texts"):
            asked.ask(["x", "y", "z"], "fill-mask", 2)


@pytest.mark.parametrize("kind", ["mlmon", "hf", "oip", "openai"])
@pytest.mark.parametrize("reply", [{}, [], "no", [1, 2], {"outputs": []}, [[{"score": "x"}]], None, 7])
def test_answers_of_another_kind_are_told_as_that(kind: Any, reply: Any) -> None:
    with JsonServer(lambda *_: (200, {}, reply)) as server:
        asked = client(server.url, kind=kind, model="m")
        with pytest.raises(ReplayError) as caught:
            asked.ask(["a", "b"], "embedding" if kind == "openai" else "fill-mask", 5)
    assert caught.value.reason == "unreadable"


# --- the wire


def test_busy_servers_are_waited_for_as_they_ask() -> None:
    pauses: list[float] = []
    replies = iter([(429, {"retry-after": "7"}), (503, {}), (200, {})])

    with JsonServer(lambda *_: (*next(replies), {"a": 1})) as server:
        wire = wire_to(server.url, pauses, retries=2)
        assert wire.post("/x", {}) == {"a": 1}
    assert pauses == [7.0, 0.2]


def test_attempts_end() -> None:
    with JsonServer(lambda *_: (503, {"retry-after": "99999"}, {})) as server:
        pauses: list[float] = []
        wire = wire_to(server.url, pauses, retries=2)
        with pytest.raises(ReplayError, match="answered 503") as caught:
            wire.post("/x", {})
        assert (caught.value.reason, caught.value.status, pauses) == ("refused", 503, [30.0, 30.0])
        url = server.url
    gone = wire_to(url, retries=1)
    with pytest.raises(ReplayError) as refused:
        gone.post("/x", {})
    assert refused.value.reason == "unreachable"


def test_what_is_no_json_is_unreadable() -> None:
    with JsonServer(lambda *_: (200, {}, b"<html>")) as server, pytest.raises(ReplayError, match="no JSON"):
        wire_to(server.url).post("/x", {})


def test_a_token_comes_from_the_environment_and_is_in_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def answer(_path: str, _body: Any, headers: Any) -> Any:
        seen.append(headers["authorization"])
        return 401, {}, {}

    with JsonServer(answer) as server:
        monkeypatch.delenv("SHADOW_TOKEN", raising=False)
        with pytest.raises(ConfigError, match="SHADOW_TOKEN is not set"):
            wire_to(server.url, token_env="SHADOW_TOKEN")  # noqa: S106 - a name
        monkeypatch.setenv("SHADOW_TOKEN", "very-secret")
        with pytest.raises(ReplayError) as caught:
            wire_to(server.url, token_env="SHADOW_TOKEN").post("/x", {})  # noqa: S106 - a name
    assert seen == ["Bearer very-secret"]
    assert "very-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"url": "ftp://x"}, "http or https"),
        ({"url": "http://user:pw@x"}, "without a user"),
        ({"url": "http://x", "kind": "oip"}, "the model's name"),
        ({"url": "http://far.example", "token_env": "X"}, "unencrypted"),
    ],
)
def test_endpoints_that_cannot_be_meant_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        EndpointConfig(**values)
    assert "pw" not in str(caught.value)


# --- several at a time


def test_texts_are_batched_and_batches_asked_at_a_time_in_order() -> None:
    lock, together = threading.Lock(), threading.Barrier(3, timeout=30)
    sizes = []

    def answer(_path: str, body: Any, _headers: Any) -> Any:
        with lock:
            sizes.append(len(body["inputs"]))
        together.wait()  # passes only when three requests are under way
        return 200, {}, [[RESULT | {"token_str": text}] for text in body["inputs"]]

    texts = [f"text {number}" for number in range(21)]
    with JsonServer(answer) as server:
        replay = Replay(EndpointConfig(url=server.url, concurrency=3, batch=7))
        found = replay.ask(texts, "fill-mask", 5)
        replay.close()
    assert sizes == [7, 7, 7]
    assert [one.first.labels[0] for one in found if isinstance(one, Answer)] == texts


def test_one_bad_text_does_not_spoil_its_batch() -> None:
    def answer(_path: str, body: Any, _headers: Any) -> Any:
        if "bad" in body["inputs"]:
            return 422, {}, {"error": "x"}
        return 200, {}, [[RESULT]] * len(body["inputs"])

    with JsonServer(answer) as server:
        replay = Replay(EndpointConfig(url=server.url, batch=4))
        found = replay.ask(["a", "bad", "c", "d", "e"], "fill-mask", 5)
        replay.close()
    assert [isinstance(one, ReplayError) for one in found] == [False, True, False, False, False]


def test_names_of_servers_are_as_told_or_by_their_model() -> None:
    url = "http://127.0.0.1:1"
    names = [
        Replay(EndpointConfig(url=url, name="gold")).name,
        Replay(EndpointConfig(url=url, kind="oip", model="m", version="2")).name,
        Replay(EndpointConfig(url=url)).name,
    ]
    assert names == ["gold", "m/2", "127.0.0.1:1"]


@pytest.mark.parametrize("data", [b"[[1.0, 1e999]]", b"[[]]", b'[["a"]]', b"[[1.0], [2.0]]"])
def test_vectors_that_are_none_are_refused(data: bytes) -> None:
    with JsonServer(lambda *_: (200, {}, data)) as server, pytest.raises(ReplayError):
        client(server.url).ask(["a"], "embedding", 1)
