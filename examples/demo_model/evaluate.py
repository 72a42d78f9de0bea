"""Measure the demo model on held-out text, and on text and tokenizers that are wrong; prints Markdown.

    python evaluate.py --model ../../mlmon/demo/model --lists /tmp/lists --lists-de /tmp/lists-de

Held out is what `corpus.held_out` keeps from training. Without --lists-de no German is read. Seeds are fixed:
the same texts, typos and masks, as far as the machine has the same packages.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from corpus import docstrings, held_out, package_descriptions, without_repetition
from damage import cased, other_vocabulary, permuted, with_typos
from scoring import load, masked_score, pseudo_log_likelihood

from mlmon.demo.corpus import docstring_sentences, labelled_queries

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from corpus import Document
    from network import Bert
    from tokenizers import Tokenizer

_WORDS = range(8, 81)


@dataclass(frozen=True, slots=True)
class Row:
    """Figures of one condition.

    Attributes:
        name: of the condition.
        texts: number of texts of accuracy and NLL.
        accuracy: masked-token accuracy.
        accuracy_error: its standard error, positions taken as independent.
        nll: mean masked NLL, nats.
        pll_token: pseudo-log-likelihood per token, nats.
        pll_word: pseudo-log-likelihood per white-space word, nats: does not depend on how words are cut.
        tokens_per_word: how words are cut.
        unknown: share of [UNK].
    """

    name: str
    texts: int
    accuracy: float
    accuracy_error: float
    nll: float
    pll_token: float
    pll_word: float
    tokens_per_word: float
    unknown: float


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="directory of the model")
    parser.add_argument("--lists", help="apt's list directory, where it is not the machine's own")
    parser.add_argument("--lists-de", help="apt's list directory with German descriptions")
    parser.add_argument(
        "--texts", type=int, default=1000, help="texts per condition; a tenth of them for the PLL"
    )
    parser.add_argument("--json", type=Path, help="file that the figures are written to")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = load(args.model)
    rows = []
    print(
        "| condition | accuracy | NLL | PLL/token | PLL/word | tokens/word | unknown |\n"
        "|---|---|---|---|---|---|---|"
    )
    for name, used, texts in _conditions(tokenizer, args):
        row = _measure(model, name, used, texts)
        rows.append(row)
        print(
            f"| {row.name} | {row.accuracy:.3f} ± {row.accuracy_error:.3f} | {row.nll:.2f} "
            f"| {row.pll_token:.2f} | {row.pll_word:.2f} | {row.tokens_per_word:.2f} | {row.unknown:.2%} |",
            flush=True,
        )
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")


def _conditions(tokenizer: Tokenizer, args: argparse.Namespace) -> Iterator[tuple[str, Tokenizer, list[str]]]:
    """(name, tokenizer to use, texts)."""
    packages = package_descriptions(args.lists)
    python = docstrings()
    kept = [d for d in without_repetition([*packages, *python]) if held_out(d.origin)]
    right = _sample([p for d in kept for p in d.paragraphs], args.texts)
    yield "held-out text", tokenizer, right
    yield "of which package descriptions", tokenizer, _sample(_paragraphs(kept, python=False), args.texts)
    yield "of which docstrings", tokenizer, _sample(_paragraphs(kept, python=True), args.texts)
    yield "the same in capitals", tokenizer, [text.upper() for text in right]
    for share in (0.05, 0.2, 0.5):
        rng = random.Random(1)  # noqa: S311 - no secret
        yield (
            f"typos in {share:.0%} of the words",
            tokenizer,
            [with_typos(text, share, rng) for text in right],
        )
    yield "casing not lowered", cased(tokenizer), right
    yield "token ids permuted", permuted(tokenizer), right
    yield "another vocabulary", other_vocabulary(tokenizer, docstring_sentences()), right
    rng = random.Random(1)  # noqa: S311 - no secret
    yield "words in random order", tokenizer, [" ".join(rng.sample(t.split(), len(t.split()))) for t in right]
    yield (
        "another subject: banking queries",
        tokenizer,
        _sample([text for _, text in labelled_queries()], args.texts, 4),
    )
    if args.lists_de:
        german = without_repetition(package_descriptions(args.lists_de, "de"))
        yield (
            "German package descriptions",
            tokenizer,
            _sample([p for d in german for p in d.paragraphs], args.texts),
        )


def _paragraphs(documents: list[Document], *, python: bool) -> list[str]:
    return [p for d in documents if d.origin.endswith(".py") is python for p in d.paragraphs]


def _sample(texts: list[str], count: int, shortest: int = _WORDS.start) -> list[str]:
    fitting = [text for text in texts if shortest <= len(text.split()) < _WORDS.stop]
    return random.Random(0).sample(fitting, min(count, len(fitting)))  # noqa: S311 - no secret


def _measure(model: Bert, name: str, tokenizer: Tokenizer, texts: Sequence[str]) -> Row:
    tokenizer.enable_truncation(128)
    sequences = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    score = masked_score(model, sequences)
    few = max(1, len(texts) // 10)
    whole = [(text, ids) for text, ids in zip(texts[:few], sequences, strict=False) if len(ids) < 128]
    pll = pseudo_log_likelihood(model, [ids for _, ids in whole]).sum()
    tokens = sum(len(ids) - 2 for _, ids in whole)
    words = sum(len(text.split()) for text, _ in whole)
    return Row(
        name=name,
        texts=len(texts),
        accuracy=score.accuracy,
        accuracy_error=(score.accuracy * (1 - score.accuracy) / score.positions) ** 0.5,
        nll=score.nll,
        pll_token=float(pll) / tokens,
        pll_word=float(pll) / words,
        tokens_per_word=tokens / words,
        unknown=score.unknown,
    )


if __name__ == "__main__":
    main()
