"""The demo's model server: a text classifier behind FastAPI, watched by mlmon's tap. Real, and small.

    python -m mlmon.demo.service --port 8000 --folder DIR --tokenizer DIR/tokenizer.json

A WordPiece tokenizer is trained on the spot (`train_tokenizers`), a naive Bayes classifier over its tokens
at start-up. The wrong deployment uses the same vocabulary with lowercasing off: the classic mistake that
fails nothing and spoils the answers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from mlmon.attach import (
    Emitter,
    EmitterConfig,
    HfTokenizerStatistics,
    MlmonMiddleware,
    SpoolSink,
    TapConfig,
    TapHooks,
    text_from,
)
from mlmon.demo.corpus import docstring_sentences, labelled_queries
from mlmon.errors import MissingExtraError
from mlmon.sources.spool_writer import SpoolWriterConfig

if TYPE_CHECKING:
    from fastapi import FastAPI
    from numpy.typing import NDArray

__all__ = ["Classifier", "create_app", "train_tokenizers"]

MODEL, SERVICE, VERSION = "intent-bayes", "support", "2026-11-01"


def train_tokenizers(folder: Path) -> tuple[Path, Path]:
    """Train the right tokenizer and save it beside the wrong one; returns both paths."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106 - a token, not a secret
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=2000, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False
    )
    texts = docstring_sentences() + [text for _, text in labelled_queries()]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.enable_truncation(64)
    right, wrong = folder / "tokenizer.json", folder / "tokenizer-cased.json"
    tokenizer.save(str(right))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.save(str(wrong))
    return right, wrong


class Classifier:
    """Multinomial naive Bayes over token ids, with Laplace smoothing.

    Args:
        tokenizer: the one that the model was trained with.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        rows = labelled_queries()
        self.labels = sorted({label for label, _ in rows})
        counts = np.ones((len(self.labels), tokenizer.get_vocab_size()))
        for label, text in rows:
            np.add.at(counts[self.labels.index(label)], tokenizer.encode(text).ids, 1)
        self._log: NDArray[np.float64] = np.log(counts / counts.sum(1, keepdims=True))

    def probabilities(self, ids: list[int]) -> NDArray[np.float64]:
        """Probability of each label, shape (labels,)."""
        scores = self._log[:, ids].sum(1)
        odds = np.exp(scores - scores.max())
        answer: NDArray[np.float64] = odds / odds.sum()
        return answer


def _extract(_request: Any, response: Any) -> dict[str, Any]:
    """What an answer tells the monitor."""
    scores = np.array([row["score"] for row in response["scores"]])
    return {
        "prediction": response["label"],
        "confidence": response["scores"][0]["score"],
        "entropy": float(-(scores * np.log(np.maximum(scores, 1e-12))).sum()),
        "top_labels": [row["label"] for row in response["scores"][:3]],
        "top_scores": scores[:3],
        "batch_size": 1,
    }


def create_app(folder: Path, tokenizer_path: Path, sample_rate: float = 1.0) -> FastAPI:
    """The service. Its model is always the one trained with `tokenizer.json` of the folder.

    Raises:
        MissingExtraError: FastAPI is not installed.
    """
    try:
        from fastapi import FastAPI
    except ImportError:
        raise MissingExtraError("fastapi", "server") from None

    model = Classifier(Tokenizer.from_file(str(folder / "tokenizer.json")))
    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    app = FastAPI(title="mlmon demo service")
    emitter = Emitter(
        SpoolSink(SpoolWriterConfig(str(folder / "spool"))), EmitterConfig(batch_age_seconds=0.5)
    )
    config = TapConfig(
        service=SERVICE,
        model_name=MODEL,
        model_version=VERSION,
        task="classification",
        sample_rate=sample_rate,
        paths=("/classify",),
    )
    hooks = TapHooks(
        text=text_from("text"), extract=_extract, tokenizer=HfTokenizerStatistics(str(tokenizer_path))
    )
    app.add_middleware(MlmonMiddleware, emitter=emitter, config=config, hooks=hooks)

    @app.get("/healthz")
    async def healthz() -> dict[str, bool]:
        return {"ok": True}

    @app.post("/classify")
    async def classify(request: dict[str, str]) -> dict[str, Any]:
        odds = model.probabilities(tokenizer.encode(request["text"]).ids)
        order = np.argsort(-odds)
        scores = [{"label": model.labels[i], "score": float(odds[i])} for i in order]
        return {"label": scores[0]["label"], "scores": scores}

    return app


def main() -> None:
    """Serve on loopback until stopped."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    options = parser.parse_args()
    try:
        import uvicorn
    except ImportError:
        raise MissingExtraError("uvicorn", "server") from None

    app = create_app(options.folder, options.tokenizer)
    print(json.dumps({"port": options.port}), flush=True)  # noqa: T201 - the demo waits for this line
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
