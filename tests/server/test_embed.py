"""/embed and /v1/embeddings beside transformers' hidden states."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import transformers
from server_kit import KINDS, LONGEST, ask, sentences

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from server_kit import Made

    from mlmon.server.model import LoadedModel

TEXTS = [*sentences(6), "cat", ""]


def hidden_states(made: Made, texts: list[str]) -> list[NDArray[np.float32]]:
    """Of each text on its own, shape (tokens, hidden size), special tokens included."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(made.directory)
    model = transformers.AutoModel.from_pretrained(made.directory).eval()
    with torch.no_grad():
        return [
            model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False))
            .last_hidden_state[0]
            .numpy()
            for text in texts
        ]


def unit(vectors: Any) -> NDArray[np.float64]:
    return np.asarray(vectors) / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_those_of_transformers(models: dict[str, Made], kind: str) -> None:
    states = hidden_states(models[kind], TEXTS)
    means = np.stack([state.mean(0) for state in states])
    firsts = np.stack([state[0] for state in states])
    loaded = models[kind].load()
    for pooling, expected in (("mean", means), ("cls", firsts)):
        raw, normalized = ask(
            loaded,
            ("/embed", {"inputs": TEXTS, "parameters": {"pooling": pooling, "normalize": False}}),
            ("/embed", {"inputs": TEXTS, "parameters": {"pooling": pooling}}),
        )
        np.testing.assert_allclose(raw.json(), expected, atol=2e-5)
        np.testing.assert_allclose(normalized.json(), unit(expected), atol=2e-5)


def test_one_text_gives_a_list_of_one_vector(bert: LoadedModel) -> None:
    one, listed = ask(bert, ("/embed", {"inputs": "a cat"}), ("/embed", {"inputs": ["a cat"]}))
    assert one.json() == listed.json()
    assert np.shape(one.json()) == (1, bert.info.hidden_size)


def windows_mean(made: Made, words: list[str], spans: list[tuple[int, int, int, int]], how: str) -> Any:
    """By hand: the windows' own states, special tokens of each window with them; or their first tokens."""
    states = hidden_states(made, [" ".join(words[start:stop]) for start, stop, _, _ in spans])
    if how == "cls":
        return np.mean([state[0] for state in states], axis=0)
    rows = []
    for state, (start, _, low, high) in zip(states, spans, strict=True):
        rows += [state[0], *state[1 + low - start : 1 + high - start], state[-1]]
    return np.mean(rows, axis=0)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_long_text_is_the_mean_over_its_windows_each_token_counted_once(
    models: dict[str, Made], pooling: str
) -> None:
    words = ["the", "cat", "sat", "on", "mat", "dog", "sea"] * 12
    assert LONGEST == 40
    spans = [(0, 38, 0, 34), (30, 68, 34, 57), (46, 84, 57, 84)]  # 84 tokens, windows of 38 that share 8
    parameters = {"pooling": pooling, "normalize": False, "long": "window", "stride": 8}
    loaded = models["bert"].load()
    alone, beside = ask(
        loaded,
        ("/embed", {"inputs": " ".join(words), "parameters": parameters}),
        ("/embed", {"inputs": ["a cat", " ".join(words)], "parameters": parameters}),
    )
    expected = windows_mean(models["bert"], words, spans, pooling)
    np.testing.assert_allclose(alone.json()[0], expected, atol=2e-5)
    np.testing.assert_allclose(beside.json()[1], expected, atol=2e-5)


def test_openai_clients_get_vectors_of_length_one_and_usage(bert: LoadedModel) -> None:
    texts = ["the cat sat", "a dog"]
    plain, floats, coded = ask(
        bert,
        ("/embed", {"inputs": texts}),
        ("/v1/embeddings", {"input": texts, "model": bert.info.name, "user": "x"}),
        ("/v1/embeddings", {"input": texts, "encoding_format": "base64"}),
    )
    reply = floats.json()
    assert [row["index"] for row in reply["data"]] == [0, 1]
    assert {row["object"] for row in reply["data"]} == {"embedding"}
    assert reply["model"] == bert.info.name
    tokens = sum(len(bert.tokenizer.encode(text).ids) for text in texts)
    assert reply["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    np.testing.assert_allclose([row["embedding"] for row in reply["data"]], plain.json(), atol=1e-6)
    decoded = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in coded.json()["data"]]
    np.testing.assert_allclose(decoded, plain.json(), atol=1e-6)


def test_token_ids_are_the_text_with_or_without_special_tokens(bert: LoadedModel) -> None:
    encoding = bert.tokenizer.encode("the cat sat")
    bare = encoding.ids[1:-1]
    text, with_special, without, several = ask(
        bert,
        ("/v1/embeddings", {"input": "the cat sat"}),
        ("/v1/embeddings", {"input": encoding.ids}),
        ("/v1/embeddings", {"input": bare}),
        ("/v1/embeddings", {"input": [bare, encoding.ids]}),
    )
    assert with_special.json() == without.json() == text.json()
    assert [row["embedding"] for row in several.json()["data"]] == [text.json()["data"][0]["embedding"]] * 2


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"input": "a", "dimensions": 8}, 422, "the vectors of this model have 32"),
        ({"input": "a", "model": "gpt"}, 404, "got 'gpt'"),
        ({"input": ["a", 7]}, 422, "a mixed list"),
        ({"input": [10_000]}, 422, "token ids from 0 to 113"),
        ({"input": [[]]}, 422, "length >= 1"),
        ({"input": []}, 422, "length >= 1"),
        ({"input": "a", "encoding_format": "int8"}, 422, "int8"),
        ({"input": "cat " * 60}, 422, "at most 38 tokens"),
    ],
)
def test_openai_clients_are_told_their_mistakes_in_its_words(
    bert: LoadedModel, body: Any, status: int, said: str
) -> None:
    (answer,) = ask(bert, ("/v1/embeddings", body))
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert said in answer.json()["error"]["message"]
