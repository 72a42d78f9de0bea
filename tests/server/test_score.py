"""/score beside scores made by hand with transformers, one forward pass for each masked token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import transformers
from server_kit import KINDS, Held, ask, configured, run, sentences, talking

from mlmon.server.app import build_server
from mlmon.server.work.masking import Masking, mask_tokens
from mlmon.server.work.runner import Runner

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from server_kit import Made

    from mlmon.server.model import LoadedModel

TEXTS = ["unbelievably early , isn't it ?", "we were playing chess", *sentences(3, seed=5)]


class Oracle:
    """transformers' model of a text, one sequence at a time."""

    def __init__(self, made: Made) -> None:
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(made.directory)
        self.model = transformers.AutoModelForMaskedLM.from_pretrained(made.directory).eval()
        self.mask = self.tokenizer.mask_token_id

    def encode(self, text: str) -> Any:
        return self.tokenizer(text, return_tensors="pt", return_token_type_ids=False)

    def logprobs(self, ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            return self.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)

    def likelihood(self, text: str, *, by_word: bool) -> list[float]:
        """log p of each token, special ones left out."""
        encoded = self.encode(text)
        ids, words = encoded["input_ids"][0].tolist(), encoded.word_ids()
        found = []
        for place, word in enumerate(words):
            if word is None:
                continue
            masked = list(ids)
            masked[place] = self.mask
            for later in range(place + 1, len(ids)):
                if by_word and words[later] == word:
                    masked[later] = self.mask
            found.append(float(self.logprobs(masked)[place, ids[place]]))
        return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["pll", "pll-word-l2r"])
def test_likelihoods_are_those_of_one_pass_for_each_token(
    models: dict[str, Made], kind: str, method: str
) -> None:
    oracle = Oracle(models[kind])
    (answer,) = ask(
        models[kind].load(),
        ("/score", {"inputs": TEXTS, "parameters": {"method": method, "per_token": True}}),
        batch={"batch_tokens": 48},  # smaller than the copies of a text
    )
    differs = False
    for text, row in zip(TEXTS, answer.json(), strict=True):
        expected = oracle.likelihood(text, by_word=method != "pll")
        assert row["method"] == method
        assert row["tokens"] == len(expected)
        assert [token["logprob"] for token in row["per_token"]] == pytest.approx(expected, rel=1e-4, abs=1e-4)
        assert row["score"] == pytest.approx(sum(expected), rel=1e-4)
        assert row["pseudo_perplexity"] == pytest.approx(np.exp(-np.mean(expected)), rel=1e-3)
        ids = oracle.encode(text)["input_ids"][0, 1:-1].tolist()
        assert [token["id"] for token in row["per_token"]] == ids
        assert [token["index"] for token in row["per_token"]] == list(range(len(ids)))
        differs |= expected != oracle.likelihood(text, by_word=method == "pll")
    assert differs, "no word has two tokens: the methods cannot be told apart"


def test_copies_of_a_text_go_through_the_model_in_one_batch_where_they_fit(bert: LoadedModel) -> None:
    held = Held(Runner(bert.encoder, bert.head))
    server = build_server(bert, configured(batch={"batch_tokens": 48}), runner=held)

    async def work() -> None:
        async with talking(server) as client:
            for inputs in (
                "the cat sat on the mat",
                ["a", "the cat sat on the mat"],
                "the cat sat on the mat the",
            ):
                assert (await client.post("/score", json={"inputs": inputs})).status_code == 200

    run(work())
    # after the one that tries the model: 6 copies of 8; 1 of 3 and those; 7 of 9, of which 5 fit
    assert [[len(p.lengths) for p in batch] for batch in held.batches[1:]] == [[6], [1], [6], [5], [2]]


def masked_by_hand(
    oracle: Oracle, text: str, loaded: LoadedModel, masking: Masking
) -> tuple[int, int, float]:
    """Masked and right tokens, and the sum of -log p, over all repeats."""
    ids = oracle.encode(text)["input_ids"][0, 1:-1].numpy()
    special = [loaded.special.cls, loaded.special.sep, loaded.special.pad, loaded.special.mask]
    ordinary = np.array([i for i in range(loaded.tokenizer.get_vocab_size()) if i not in special])
    count = right = 0
    loss = 0.0
    for repeat in range(masking.repeats):
        masked, where = mask_tokens(
            ids, ~np.isin(ids, special), masking, repeat, (loaded.special.mask, ordinary)
        )
        row = [loaded.special.cls, *masked.tolist(), loaded.special.sep]
        logprobs = oracle.logprobs(row)[1:-1][where]
        truth = torch.from_numpy(ids[where])
        count += len(where)
        right += int((logprobs.argmax(-1) == truth).sum())
        loss -= float(logprobs.gather(1, truth[:, None]).sum())
    return count, right, loss


def guessed(oracle: Oracle) -> str:
    """A text one token of which the model guesses; of ordinary texts a random one guesses next to nothing."""
    for text in sentences(50, seed=9):
        ids = oracle.encode(text)["input_ids"][0].tolist()
        for place in range(1, len(ids) - 1):
            masked = [*ids[:place], oracle.mask, *ids[place + 1 :]]
            best = int(oracle.logprobs(masked)[place].argmax())
            found = [*ids[:place], best, *ids[place + 1 :]]
            written = oracle.tokenizer.decode(found[1:-1])
            if best > 4 and oracle.encode(written)["input_ids"][0].tolist() == found:
                return str(written)
    raise AssertionError("no token that the model says can be written")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("replacement", ["bert", "mask"])
def test_masked_accuracy_and_loss_are_those_made_by_hand(
    models: dict[str, Made], kind: str, replacement: Any
) -> None:
    oracle, loaded = Oracle(models[kind]), models[kind].load()
    masking, texts = Masking(0.1, replacement, seed=3, repeats=20), [*TEXTS, guessed(oracle)]
    parameters = {
        "method": "masked",
        "mask_ratio": 0.1,
        "replacement": replacement,
        "seed": 3,
        "repeats": 20,
        "per_token": True,
    }
    (answer,) = ask(loaded, ("/score", {"inputs": texts, "parameters": parameters}))
    rights = 0
    for text, row in zip(texts, answer.json(), strict=True):
        count, right, loss = masked_by_hand(oracle, text, loaded, masking)
        assert (row["masked_tokens"], row["right_tokens"]) == (count, right)
        assert row["accuracy"] == pytest.approx(right / count)
        assert row["loss"] == pytest.approx(loss / count, rel=1e-4)
        told = row["per_token"]
        assert sum(token["predicted"] == token["token"] for token in told) == right
        assert -sum(token["logprob"] for token in told) == pytest.approx(loss, rel=1e-4)
        rights += right
    assert rights > 0, "nothing is ever right: the count of right ones is not tested"


def draws(ids: NDArray[np.int64], masking: Masking, count: int) -> NDArray[np.int64]:
    allowed = np.ones(len(ids), np.bool_)
    ordinary = np.arange(100, 200)
    return np.stack([mask_tokens(ids, allowed, masking, i, (4, ordinary))[0] for i in range(count)])


def test_fifteen_percent_are_masked_and_of_those_eighty_ten_ten() -> None:
    ids = np.arange(1000, 1040)
    found = draws(ids, Masking(), 2000)
    where = [mask_tokens(ids, np.ones(40, bool), Masking(), i, (4, ids))[1] for i in range(2000)]
    assert {len(places) for places in where} == {6}
    masks, changed = found == 4, found != ids
    others = changed & ~masks
    # of 12,000 masked tokens; five standard deviations
    assert abs(masks.sum() - 0.8 * 12_000) < 5 * np.sqrt(12_000 * 0.8 * 0.2)
    assert abs(others.sum() - 0.1 * 12_000) < 5 * np.sqrt(12_000 * 0.1 * 0.9)
    assert np.all((found[others] >= 100) & (found[others] < 200))
    # every token as often as every other
    share = np.bincount(np.concatenate(where), minlength=40) / 2000
    assert np.abs(share - 0.15).max() < 5 * np.sqrt(0.15 * 0.85 / 2000)
    drawn = np.bincount(found[others] - 100, minlength=100)
    assert drawn.min() > 0


def test_masks_depend_on_seed_repeat_and_tokens_alone(bert: LoadedModel) -> None:
    ids = np.arange(50)
    first = draws(ids, Masking(seed=1), 3)
    assert np.array_equal(first, draws(ids, Masking(seed=1), 3))
    assert not np.array_equal(first, draws(ids, Masking(seed=2), 3))
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0] == 4, draws(ids + 1, Masking(seed=1), 1)[0] == 4)
    parameters = {"method": "masked", "mask_ratio": 0.5, "per_token": True}
    alone, beside = ask(
        bert,
        ("/score", {"inputs": TEXTS[0], "parameters": parameters}),
        ("/score", {"inputs": TEXTS, "parameters": parameters}),
    )
    assert [t["index"] for t in alone.json()[0]["per_token"]] == [
        t["index"] for t in beside.json()[0]["per_token"]
    ]


def test_special_tokens_and_masks_in_a_text_are_not_scored(bert: LoadedModel) -> None:
    text = "the [MASK] sat [SEP] on [PAD]"
    likelihood, masked, nothing, empty = ask(
        bert,
        ("/score", {"inputs": text, "parameters": {"per_token": True}}),
        (
            "/score",
            {"inputs": text, "parameters": {"method": "masked", "mask_ratio": 1.0, "per_token": True}},
        ),
        ("/score", {"inputs": "[MASK]"}),
        ("/score", {"inputs": "", "parameters": {"method": "masked"}}),
    )
    for answer in (likelihood, masked):
        assert [token["token"] for token in answer.json()[0]["per_token"]] == ["the", "sat", "on"]
    assert nothing.json() == [{"method": "pll", "tokens": 0, "score": 0.0, "pseudo_perplexity": None}]
    assert empty.json()[0] == {
        "method": "masked",
        "tokens": 0,
        "masked_tokens": 0,
        "right_tokens": 0,
        "accuracy": None,
        "loss": None,
    }


@pytest.mark.parametrize("method", ["pll", "pll-word-l2r", "masked"])
def test_tokens_of_a_long_text_are_scored_once_in_the_window_that_owns_them(
    models: dict[str, Made], method: str
) -> None:
    words = ["the", "cat", "sat", "on", "mat", "dog", "sea"] * 8  # 56 tokens
    spans = [(0, 38, 0, 28), (18, 56, 28, 56)]
    parameters = {"method": method, "long": "window", "stride": 8, "per_token": True, "mask_ratio": 1.0}
    parameters["replacement"] = "mask"
    loaded = models["bert"].load()
    (answer,) = ask(
        loaded,
        ("/score", {"inputs": " ".join(words), "parameters": parameters}),
        limits={"request_tokens": 3000},
    )
    (row,) = answer.json()
    oracle, expected = Oracle(models["bert"]), []
    for start, stop, low, high in spans:
        window = " ".join(words[start:stop])
        if method == "masked":
            ids = oracle.encode(window)["input_ids"][0]
            logprobs = oracle.logprobs([ids[0], *[oracle.mask] * (stop - start), ids[-1]])[1:-1]
            scores = logprobs.gather(1, ids[1:-1, None])[:, 0].tolist()
        else:
            scores = oracle.likelihood(window, by_word=method != "pll")
        expected += scores[low - start : high - start]
    assert [token["index"] for token in row["per_token"]] == list(range(56))
    assert [token["logprob"] for token in row["per_token"]] == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_a_score_too_large_is_refused_before_it_is_made(bert: LoadedModel) -> None:
    text = "cat " * 38
    most = 38 * 40
    fits, too_many, masked = ask(
        bert,
        ("/score", {"inputs": text}),
        ("/score", {"inputs": [text, "cat"]}),
        ("/score", {"inputs": [text, "cat"], "parameters": {"method": "masked"}}),
        limits={"request_tokens": most},
    )
    assert (fits.status_code, too_many.status_code, masked.status_code) == (200, 413, 200)
    assert too_many.json()["got"] == str(most + 3)
    assert too_many.json()["error_type"] == "too_large"
