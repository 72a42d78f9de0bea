"""/fill-mask beside the transformers pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from server_kit import KINDS, ask

if TYPE_CHECKING:
    from server_kit import Made

    from mlmon.server.model import LoadedModel

TEXTS = (
    "the cat {m} on the mat .",
    "unbelievably early , {m} bird sings !",
    "{m}",
    "we were {m} chess and {m} looked at the {m}",
    "isn't it , she {m}?",
)


def assert_same(ours: Any, theirs: Any) -> None:
    """Equal candidates in equal nests; scores to the precision of float32 in another order of summing."""
    assert type(ours) is type(theirs)
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        if isinstance(one, list):
            assert_same(one, other)
            continue
        assert one["score"] == pytest.approx(other["score"], rel=2e-5)
        assert {key: one[key] for key in ("token", "token_str", "sequence")} == {
            key: other[key] for key in ("token", "token_str", "sequence")
        }


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_the_transformers_pipeline(models: dict[str, Made], kind: str) -> None:
    made = models[kind]
    texts = [text.format(m=made.mask) for text in TEXTS]
    padding = "<pad>" if kind == "roberta" else "[PAD]"
    texts += [f"the {made.mask} {padding} sat", f"{padding} {made.mask} {padding} sat {made.mask}"]
    pipeline = made.pipeline()
    with torch.no_grad():
        expected = [pipeline(text) for text in texts]
    single, together = ask(
        made.load(),
        ("/fill-mask", {"inputs": texts[0]}),
        ("/fill-mask", {"inputs": texts}),
    )
    assert_same(single.json(), expected[0])
    assert_same(together.json(), expected)
    nested = [isinstance(answer[0], list) for answer in together.json()]
    assert nested == [False, False, False, True, False, False, True]


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize(
    ("targets", "top_k"),
    [(["the", "cat", "river"], 2), (["the", "cat"], 5), ("sat", 5), (["chessboard", "the"], 5)],
)
def test_targets_are_those_of_the_transformers_pipeline(
    models: dict[str, Made], kind: str, targets: str | list[str], top_k: int
) -> None:
    made = models[kind]
    texts = [text.format(m=made.mask) for text in TEXTS[:4:3]]
    pipeline = made.pipeline(targets=targets, top_k=top_k)
    with torch.no_grad():
        expected = [pipeline(text) for text in texts]
    (answer,) = ask(
        made.load(), ("/fill-mask", {"inputs": texts, "parameters": {"targets": targets, "top_k": top_k}})
    )
    assert_same(answer.json(), expected)


def test_targets_that_are_no_tokens_are_counted_in_a_header(bert: LoadedModel) -> None:
    exact, inexact, none = ask(
        bert,
        ("/fill-mask", {"inputs": "[MASK]", "parameters": {"targets": ["the", "cat"]}}),
        ("/fill-mask", {"inputs": "[MASK]", "parameters": {"targets": ["the", "thecat", "xyz"]}}),
        ("/fill-mask", {"inputs": "[MASK]", "parameters": {"targets": [""]}}),
    )
    assert "x-mlmon-inexact-targets" not in exact.headers
    assert inexact.headers["x-mlmon-inexact-targets"] == "2"
    assert none.status_code == 422
    assert none.json()["expected"] == "targets that are tokens of the vocabulary"


def test_all_tokens_can_be_asked_for_also_those_the_tokenizer_does_not_have(bert: LoadedModel) -> None:
    size = bert.info.vocabulary_size
    (answer,) = ask(
        bert,
        ("/fill-mask", {"inputs": "the [MASK]", "parameters": {"top_k": size + 5}}),
        limits={"top_k": 10_000},
    )
    found = answer.json()
    assert len(found) == size
    assert sum(row["score"] for row in found) == pytest.approx(1.0, abs=1e-5)
    assert [row["score"] for row in found] == sorted((row["score"] for row in found), reverse=True)
    beyond = [row for row in found if row["token"] >= bert.tokenizer.get_vocab_size()]
    assert [row["token_str"] for row in beyond] == [""] * 6


def test_what_an_answer_says_does_not_depend_on_the_texts_beside_it(bert: LoadedModel) -> None:
    texts = [text.format(m="[MASK]") for text in TEXTS]
    alone = ask(bert, *(("/fill-mask", {"inputs": text}) for text in texts))
    (together,) = ask(bert, ("/fill-mask", {"inputs": texts * 9}), batch={"batch_tokens": 64})
    for answer, expected in zip(together.json(), [reply.json() for reply in alone] * 9, strict=True):
        assert_same(answer, expected)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"inputs": "no mask here"}, 422, "put [MASK] where a token is to be filled in"),
        ({"inputs": ["[MASK]", "none"]}, 422, "none in text 1"),
        ({"inputs": []}, 422, "length >= 1"),
        ({"inputs": "[MASK]", "parameters": {"top_k": 0}}, 422, ">= 1 - at `$.parameters.top_k`"),
        ({"inputs": "[MASK]", "parameters": {"top_k": 101}}, 422, "top_k of at most 100"),
        ({"inputs": "[MASK]", "parameters": {"topk": 1}}, 422, "unknown field `topk`"),
        ({"inputs": "[MASK]", "parameters": {"targets": ["a"] * 1001}}, 413, "at most 1000 targets"),
        ({"inputs": ["[MASK]"] * 513}, 413, "at most 512 texts"),
        ({"inputs": 7}, 422, "got `int` - at `$.inputs`"),
        ({"inputs": "[MASK] " + "cat " * 60}, 422, 'set parameters.long to "truncate" or "window"'),
    ],
)
def test_a_mistake_is_told_with_what_to_do(bert: LoadedModel, body: Any, status: int, said: str) -> None:
    (answer,) = ask(bert, ("/fill-mask", body))
    assert answer.status_code == status
    told = answer.json()
    assert set(told) == {"error", "error_type", "expected", "got", "remedy"}
    assert told["error"] == f"expected {told['expected']}, got {told['got']}; {told['remedy']}"
    assert said in told["error"]


def test_a_truncated_text_is_as_if_it_ended_there_and_is_counted(bert: LoadedModel) -> None:
    tail = "cat " * 60
    short = "the [MASK] " + "cat " * 36  # 38 tokens: what the model takes
    whole, cut, gone = ask(
        bert,
        ("/fill-mask", {"inputs": short}),
        ("/fill-mask", {"inputs": "the [MASK] " + tail, "parameters": {"long": "truncate"}}),
        ("/fill-mask", {"inputs": tail + "[MASK]", "parameters": {"long": "truncate"}}),
    )
    assert_same(cut.json(), whole.json())
    assert gone.status_code == 422
    assert "none in text 0 in what is left of it" in gone.json()["got"]


def test_a_mask_is_read_in_the_window_where_it_stands_furthest_from_a_cut(bert: LoadedModel) -> None:
    words = ["the", "cat", "sat", "on", "mat", "dog"] * 15
    words[46] = "[MASK]"
    # windows of 38 tokens that share 18 start at 0, 20, 40 and 52; token 46 is 12 from the second's end and
    # 6 from the third's start
    window = " ".join(words[20:58])
    alone, (answer,) = (
        ask(bert, ("/fill-mask", {"inputs": window})),
        ask(
            bert, ("/fill-mask", {"inputs": " ".join(words), "parameters": {"long": "window", "stride": 18}})
        ),
    )
    expected, ids = alone[0].json(), bert.tokenizer.encode(" ".join(words)).ids
    for one, other in zip(answer.json(), expected, strict=True):
        assert one["token"] == other["token"]
        assert one["score"] == pytest.approx(other["score"], rel=1e-5)
        filled = [other["token"] if token == bert.special.mask else token for token in ids]
        assert one["sequence"] == bert.tokenizer.decode(filled)
