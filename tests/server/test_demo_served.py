"""`mlmon serve` with the model that ships: every route, as a process; and what its clients see of its death.

What the routes give is compared with transformers elsewhere, with random weights; here they must make sense.
"""

from __future__ import annotations

import base64
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from server_kit import process, read_metrics, until

import mlmon.demo
from mlmon.server.web.routes import POSTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from server_kit import Process

MODEL = Path(mlmon.demo.__file__).parent / "model"
NAME = "demo/docs"
TEXTS = [
    "Return the number of bytes written to the file, or raise an error if the file is closed.",
    "This package contains the header files needed to compile programs which use the library.",
    "The function returns a list of strings, one for each line in the input.",
    "Documentation for the weather station daemon and its network protocol.",
    "Set the maximum number of threads that may be used at the same time by the server.",
]
MASKED = "This package provides the development [MASK] and headers."


@pytest.fixture(scope="module")
def served() -> Iterator[Process]:
    options = ("--name", NAME, "--version", "7", "--batch-tokens", "256", "--price-per-gpu-hour", "3600")
    with process("--model", str(MODEL), *options) as server:
        yield server


@pytest.fixture(scope="module")
def client(served: Process) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=60) as client:
        yield client


def post(client: httpx.Client, path: str, **body: Any) -> Any:
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def tokens(candidates: Any) -> list[str]:
    return [row["token_str"] for row in candidates]


def test_fill_mask_knows_what_packages_have(client: httpx.Client) -> None:
    found = post(client, "/fill-mask", inputs=MASKED, parameters={"top_k": 3})
    assert [set(row) for row in found] == [{"score", "token", "token_str", "sequence"}] * 3
    assert tokens(found)[0] == "files"
    assert found[0]["sequence"] == "this package provides the development files and headers."
    targets = post(client, "/fill-mask", inputs=MASKED, parameters={"targets": ["cat", "files", "library"]})
    assert tokens(targets) == ["files", "library", "cat"]
    assert targets[0]["score"] == pytest.approx(found[0]["score"], rel=1e-4)
    several = "Return the [MASK] of bytes [MASK] to the file."
    one, two = post(client, "/fill-mask", inputs=[MASKED, several])
    assert [row["token"] for row in one[:3]] == [row["token"] for row in found]
    assert [len(mask) for mask in two] == [5, 5]
    # the other mask is still there, before or behind
    assert all(row["sequence"].startswith("[CLS] return the [MASK] of bytes") for row in two[1])
    assert all(row["sequence"].endswith("[MASK] to the file. [SEP]") for row in two[0])


def test_embeddings_of_like_texts_are_near_in_both_forms(client: httpx.Client) -> None:
    like = "Return the count of bytes read from the file, or raise an exception if the file is closed."
    vectors = np.array(post(client, "/embed", inputs=[TEXTS[0], like, TEXTS[3]]))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.1
    first = post(client, "/embed", inputs=TEXTS[0], parameters={"pooling": "cls", "normalize": False})
    assert abs(np.linalg.norm(first[0]) - 1) > 0.01
    coded = post(client, "/v1/embeddings", input=TEXTS[0], model=NAME, encoding_format="base64")
    raw = np.frombuffer(base64.b64decode(coded["data"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(raw, vectors[0], atol=1e-5)
    plain = post(client, "/v1/embeddings", input=[like, TEXTS[0]])
    np.testing.assert_allclose(plain["data"][1]["embedding"], vectors[0], atol=1e-5)


def test_scores_tell_a_text_from_its_words_out_of_order(client: httpx.Client) -> None:
    shuffled = [" ".join(sorted(text.split())) for text in TEXTS]
    for method in ("pll", "pll-word-l2r"):
        rows = post(client, "/score", inputs=[*TEXTS, *shuffled], parameters={"method": method})
        right, wrong = (sum(row["score"] for row in part) for part in (rows[:5], rows[5:]))
        assert right > wrong + 30
        assert all(row["pseudo_perplexity"] > 1 for row in rows)
    masked = post(client, "/score", inputs=TEXTS, parameters={"method": "masked", "repeats": 10, "seed": 1})
    assert sum(row["right_tokens"] for row in masked) > 0.25 * sum(row["masked_tokens"] for row in masked)
    assert masked == post(
        client, "/score", inputs=TEXTS, parameters={"method": "masked", "repeats": 10, "seed": 1}
    )


def test_the_open_inference_protocol_and_tokens(client: httpx.Client) -> None:
    tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "data": [MASKED, "A [MASK] file."]}
    reply = post(client, f"/v2/models/{NAME}/versions/7/infer", inputs=[tensor])
    outputs = {output["name"]: output for output in reply["outputs"]}
    assert outputs["token"]["data"][0] == "files"
    assert outputs["token"]["shape"] == [2, 5]
    assert (reply["model_name"], reply["model_version"]) == (NAME, "7")
    (row,) = post(client, "/tokenize", inputs="Header FILES")
    assert [token["token"] for token in row] == ["[CLS]", "header", "files", "[SEP]"]


def test_every_route_that_the_document_names_answers(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    names = {path for path, operations in paths.items() if "get" in operations}
    assert {post.path.replace(":path", "") for post in POSTS} == paths.keys() - names
    for path in [*names, "/metrics", "/openapi.json"]:
        answer = client.get(path.replace("{model}", NAME).replace("{version}", "7"))
        assert answer.status_code == 200, path
    info = client.get("/info").json()["model"]
    assert (info["name"], info["path"], info["hidden_size"]) == (NAME, "packed", 128)


def test_an_inference_has_its_cost(client: httpx.Client) -> None:
    post(client, "/embed", inputs=TEXTS)
    seen = read_metrics(client.get("/metrics").text)
    used = seen["mlmon_server_used_cost_total", ("interactive",)]
    answered = sum(
        count
        for (name, labels), count in seen.items()
        if name == "mlmon_server_requests_total" and labels[:2] == ("200", "interactive")
    )
    # at 3600 an hour a second costs 1: an inference as much as the device worked for it
    assert 0 < used / answered < seen["mlmon_server_allocated_cost_total", ()]
    assert seen["mlmon_server_used_cost_total", ("shadow",)] == 0


def test_who_waits_when_the_server_is_killed_gets_an_error(served: Process) -> None:
    """The last test of this file: nothing answers after it."""
    seen: list[BaseException] = []

    def ask() -> None:
        body = {"inputs": TEXTS * 100, "parameters": {"method": "pll"}}
        try:
            httpx.post(f"{served.url}/score", json=body, timeout=60)
        except httpx.TransportError as error:
            seen.append(error)

    def batches() -> float:
        text = httpx.get(f"{served.url}/metrics", timeout=60).text
        return read_metrics(text)["mlmon_server_batches_total", ()]

    before = batches()
    waiting = threading.Thread(target=ask)
    waiting.start()
    until(lambda: batches() > before)
    served.child.kill()
    waiting.join(30)
    assert not waiting.is_alive(), "nobody waits for an answer that can't come"
    assert [type(error) for error in seen] in ([httpx.RemoteProtocolError], [httpx.ReadError])
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{served.url}/health/live")
