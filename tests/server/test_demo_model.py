"""The model that ships loads everywhere, is the one its card describes, and notices what it is given."""

from __future__ import annotations

import hashlib
import importlib
import json
import random
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from tokenizers import Tokenizer
from transformers import AutoTokenizer, BertForMaskedLM

import mlmon.demo
from mlmon.registry.tokenizers import load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

MODEL = Path(mlmon.demo.__file__).parent / "model"
EXAMPLE = Path(__file__).parents[2] / "examples" / "demo_model"

#: Written for this test, in the manner of what the model was trained on.
TEXT = """
This package contains the header files needed to compile programs which use the map drawing library.
Return the number of bytes written to the file, or raise an error if the file is closed.
A small command line tool to convert images between several common formats.
If the argument is not given, the default value of the current user's configuration is used.
It is designed to be easy to use and provides a simple graphical interface for the GNOME desktop.
The function returns a list of strings, one for each line in the input.
This is a dummy package; it can be safely removed from your system after the upgrade.
Set the maximum number of threads that may be used at the same time by the server.
Features include support for multiple languages, a built-in search, and a plugin system.
Raises ValueError if the two arrays do not have the same shape.
Documentation for the weather station daemon and its network protocol.
This module provides a set of functions that read and write compressed files.
The program can be used to monitor the temperature of a hard disk from the command line.
Create a new instance of the class from the given dictionary of options.
Python bindings for a C library which implements fast Fourier transforms.
Note that this method is deprecated and will be removed in a future version.
It supports both IPv4 and IPv6, and can be configured to listen on a single network interface.
Returns True if the object is equal to the other object, and False otherwise.
A game in which the player controls a small ship and has to collect all the stars on each level.
The result of this call is cached, so the second call does not read the file again.
This package provides the development files and static libraries for a parser of calendar data.
Wait until the process has finished, then return its exit status as an integer.
You will need a web server with PHP and a MySQL database in order to run this application.
The first argument is the name of the host; the second one is the port number to connect to.
""".strip().splitlines()

_QUESTION = "This package provides the development [MASK] and headers."

GERMAN = """
Dieses Paket enthält die Dateien, die zum Übersetzen von Programmen mit dieser Bibliothek benötigt werden.
Gibt die Anzahl der geschriebenen Bytes zurück oder meldet einen Fehler, wenn die Datei geschlossen ist.
Ein kleines Werkzeug für die Befehlszeile, das Bilder zwischen verschiedenen Formaten umwandelt.
Es ist einfach zu bedienen und bietet eine übersichtliche grafische Oberfläche für den Arbeitsplatz.
Die Funktion liefert eine Liste von Zeichenketten, eine für jede Zeile der Eingabe.
Legt fest, wie viele Prozesse der Server gleichzeitig verwenden darf.
Dokumentation für den Dienst der Wetterstation und sein Netzwerkprotokoll.
Ein Spiel, in dem man ein kleines Schiff steuert und auf jeder Ebene alle Sterne einsammeln muss.
""".strip().splitlines()


@pytest.fixture(scope="module")
def example() -> Iterator[dict[str, ModuleType]]:
    """The example's own modules, which import each other as programs beside each other do."""
    names = ("network", "pieces", "damage", "scoring")
    sys.path.insert(0, str(EXAMPLE))
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(EXAMPLE))
        for name in names:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def loaded(example: dict[str, ModuleType]) -> tuple[Any, Tokenizer]:
    return example["scoring"].load(MODEL)


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return json.loads((MODEL / "config.json").read_text(encoding="utf-8"))


def test_digests_are_those_of_the_card() -> None:
    card = dict(
        re.findall(
            r"^\| `([\w.]+)` \| `([0-9a-f]{64})` \|", (MODEL / "README.md").read_text("utf-8"), re.MULTILINE
        )
    )
    assert set(card) == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {name: hashlib.sha256((MODEL / name).read_bytes()).hexdigest() for name in card} == card


def test_model_is_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 5_000_000


def test_tensors_have_the_shapes_that_the_configuration_says(config: dict[str, Any]) -> None:
    tensors = load_file(MODEL / "model.safetensors")
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    expected = {
        "bert.embeddings.word_embeddings.weight": (config["vocab_size"], hidden),
        "bert.embeddings.position_embeddings.weight": (config["max_position_embeddings"], hidden),
        "bert.embeddings.token_type_embeddings.weight": (config["type_vocab_size"], hidden),
        "cls.predictions.bias": (config["vocab_size"],),
    } | _dense("cls.predictions.transform", hidden, hidden)
    expected |= _norm("bert.embeddings", hidden) | _norm("cls.predictions.transform", hidden)
    for index in range(config["num_hidden_layers"]):
        layer = f"bert.encoder.layer.{index}"
        for part in ("query", "key", "value"):
            expected |= _linear(f"{layer}.attention.self.{part}", hidden, hidden)
        expected |= _dense(f"{layer}.attention.output", hidden, hidden) | _norm(
            f"{layer}.attention.output", hidden
        )
        expected |= _dense(f"{layer}.intermediate", inner, hidden)
        expected |= _dense(f"{layer}.output", hidden, inner) | _norm(f"{layer}.output", hidden)
    assert {name: tensor.shape for name, tensor in tensors.items()} == expected
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.float16)}
    assert all(np.isfinite(tensor).all() for tensor in tensors.values())


def _linear(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def _dense(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
    return _linear(f"{name}.dense", out, into)


def _norm(name: str, size: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.LayerNorm.weight": (size,), f"{name}.LayerNorm.bias": (size,)}


def test_weights_say_that_they_are_torch_s() -> None:
    with safe_open(MODEL / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}


def test_tokenizer_lowers_case_and_frames_the_text(config: dict[str, Any]) -> None:
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    encoding = tokenizer.encode("This Package")
    assert tokenizer.get_vocab_size() == config["vocab_size"]
    assert encoding.tokens == ["[CLS]", "this", "package", "[SEP]"]
    assert [tokenizer.token_to_id(t) for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")] == [
        0,
        1,
        2,
        3,
        4,
    ]
    assert config["pad_token_id"] == 0


def test_the_sidecar_reads_the_tokenizer(config: dict[str, Any]) -> None:
    info = load_tokenizer(MODEL / "tokenizer.json")
    assert len(info.vocabulary.tokens) == config["vocab_size"]
    assert info.vocabulary.unknown == 1
    assert info.vocabulary.masks == {4}


def test_transformers_reads_every_tensor_and_says_the_same(loaded: tuple[Any, Tokenizer]) -> None:
    reference, report = BertForMaskedLM.from_pretrained(MODEL, output_loading_info=True, dtype=torch.float32)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    model, tokenizer = loaded
    ids = torch.tensor([tokenizer.encode(_QUESTION).ids])
    with torch.inference_mode():
        expected = reference.eval()(ids).logits[0]
        torch.testing.assert_close(model.scores(model(ids)[0]), expected, atol=1e-4, rtol=1e-4)
    assert AutoTokenizer.from_pretrained(MODEL)(_QUESTION).input_ids == ids[0].tolist()
    assert tokenizer.id_to_token(int(expected[ids[0] == 4].argmax())) == "files"


@pytest.fixture(scope="module")
def known(example: dict[str, ModuleType], loaded: tuple[Any, Tokenizer]) -> tuple[float, float]:
    """Accuracy and NLL of the text as it should be."""
    return _score(example, *loaded, TEXT)


def test_masked_tokens_are_found(known: tuple[float, float]) -> None:
    accuracy, nll = known
    assert accuracy > 0.25
    assert nll < 4.6


@pytest.mark.parametrize("damage", ["casing", "permuted", "vocabulary", "german", "typos"])
def test_it_knows_less_of_what_is_wrong(
    example: dict[str, ModuleType], loaded: tuple[Any, Tokenizer], known: tuple[float, float], damage: str
) -> None:
    model, tokenizer = loaded
    accuracy, nll = _score(example, model, *_damaged(example["damage"], tokenizer, damage))
    assert accuracy < known[0] - 0.1
    assert nll > known[1] + 1.5


def _damaged(damage: ModuleType, tokenizer: Tokenizer, kind: str) -> tuple[Tokenizer, Sequence[str]]:
    if kind == "german":
        return tokenizer, GERMAN
    if kind == "typos":
        rng = random.Random(0)  # noqa: S311 - no secret
        return tokenizer, [damage.with_typos(text, 0.5, rng) for text in TEXT]
    if kind == "casing":
        return damage.cased(tokenizer), [text.title() for text in TEXT]
    if kind == "permuted":
        return damage.permuted(tokenizer), TEXT
    return damage.other_vocabulary(tokenizer, GERMAN + TEXT), TEXT


def _score(
    example: dict[str, ModuleType], model: Any, tokenizer: Tokenizer, texts: Sequence[str]
) -> tuple[float, float]:
    sequences = [tokenizer.encode(text).ids for text in texts]
    scores = [example["scoring"].masked_score(model, sequences, seed=seed) for seed in range(4)]
    return float(np.mean([s.accuracy for s in scores])), float(np.mean([s.nll for s in scores]))


def test_pseudo_log_likelihood_is_that_of_masking_each_token(
    example: dict[str, ModuleType], loaded: tuple[Any, Tokenizer]
) -> None:
    model, tokenizer = loaded
    ids = tokenizer.encode(TEXT[1]).ids
    expected = 0.0
    for at in range(1, len(ids) - 1):
        masked = torch.tensor([[*ids[:at], 4, *ids[at + 1 :]]])
        with torch.inference_mode():
            expected += model.scores(model(masked)[0, at]).log_softmax(-1)[ids[at]].item()
    found = example["scoring"].pseudo_log_likelihood(model, [tokenizer.encode(TEXT[0]).ids, ids])
    assert found[1] == pytest.approx(expected, rel=1e-4)
