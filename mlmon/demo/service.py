"""The demo's model server: an intent classifier behind FastAPI, watched by mlmon's tap. Real, and small.

    python -m mlmon.demo.service --port 8000 --folder DIR --tokenizer tokenizer.json --model model.safetensors

What it serves was made by `demo.training`.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer

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
from mlmon.demo.encoder import Encoder
from mlmon.demo.training import TOKENIZER, WEIGHTS
from mlmon.errors import MissingExtraError
from mlmon.sources.spool_writer import SpoolWriterConfig

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["MODEL", "SERVICE", "SPOOL", "VERSION", "create_app"]

SERVICE, MODEL, VERSION = "support", "intent-lsa", "2026-11-01"
#: The spool in the service's folder.
SPOOL = "spool"


def _extract(request: Any, response: Any) -> dict[str, Any]:
    """What an event says of a request and its answer."""
    best = response["scores"]
    return {
        "prediction": response["label"],
        "confidence": best[0]["score"],
        "entropy": -sum(row["score"] * math.log(row["score"]) for row in best if row["score"] > 0),
        "top_labels": [row["label"] for row in best[:3]],
        "top_scores": [row["score"] for row in best[:3]],
        "embedding": response["embedding"],
        "numeric_features": {
            "words": float(len(request["text"].split())),
            "customer_years": float(request["customer_years"]),
        },
        "categorical_features": {
            "channel": request["channel"],
            "form": "question" if "?" in request["text"] else "statement",
        },
        "batch_size": 1,
    }


def create_app(folder: Path, tokenizer: str = TOKENIZER, weights: str = WEIGHTS) -> FastAPI:
    """The service.

    Args:
        folder: what `training.train` filled; events go to the spool in it.
        tokenizer: name of the tokenizer's file there.
        weights: of the model's.

    Raises:
        MissingExtraError: FastAPI is not installed.
    """
    try:
        from fastapi import FastAPI
    except ImportError:
        raise MissingExtraError("fastapi", "demo") from None

    model = Encoder.load(folder / weights)
    serving = Tokenizer.from_file(str(folder / tokenizer))
    app = FastAPI(title="mlmon demo service")
    sink = SpoolSink(SpoolWriterConfig(str(folder / SPOOL)))
    config = TapConfig(
        service=SERVICE,
        model_name=MODEL,
        model_version=VERSION,
        task="classification",
        paths=("/classify",),
    )
    hooks = TapHooks(
        text=text_from("text"),
        extract=_extract,
        tokenizer=HfTokenizerStatistics(folder / tokenizer),
    )
    emitter = Emitter(sink, EmitterConfig(batch_age_seconds=0.5))
    app.add_middleware(MlmonMiddleware, emitter=emitter, config=config, hooks=hooks)

    @app.get("/healthz")
    async def healthz() -> dict[str, bool]:
        return {"ok": True}

    @app.post("/classify")
    async def classify(request: dict[str, Any]) -> dict[str, Any]:
        answer = model.answer(serving.encode(request["text"]).ids)
        order = np.argsort(-answer.probabilities)
        scores = [{"label": model.labels[i], "score": float(answer.probabilities[i])} for i in order]
        embedding = [round(float(value), 5) for value in answer.embedding]
        return {"label": scores[0]["label"], "scores": scores, "embedding": embedding}

    return app


def main() -> None:
    """Serve on loopback until stopped."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--tokenizer", default=TOKENIZER)
    parser.add_argument("--model", default=WEIGHTS)
    options = parser.parse_args()
    try:
        import uvicorn
    except ImportError:
        raise MissingExtraError("uvicorn", "demo") from None

    app = create_app(options.folder, options.tokenizer, options.model)
    print(json.dumps({"port": options.port}), flush=True)  # noqa: T201 - the demo waits for this line
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
