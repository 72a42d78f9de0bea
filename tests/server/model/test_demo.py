"""The demo's own weights, trained and not random: both paths answer as transformers does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

import mlmon.demo
from mlmon.server.model import LoadConfig, load_model, pack, pool

if TYPE_CHECKING:
    from mlmon.server.model import LoadedModel

MODEL = Path(mlmon.demo.__file__).parent / "model"
TEXTS = (
    "This package contains the [MASK] files needed to compile programs.",
    "Return the [MASK] of bytes written to the file.",
    "Raise an [MASK].",
    "It is designed to be easy to use and provides a simple [MASK] interface for the desktop of the user.",
    "[MASK]",
)


@pytest.fixture(scope="module", params=["packed", "plain"])
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    return load_model(MODEL, LoadConfig(path=request.param))


def test_the_demo_weights_answer_as_in_transformers(loaded: LoadedModel) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForMaskedLM.from_pretrained(MODEL, dtype=torch.float32)
    inputs = tokenizer(list(TEXTS), padding=True, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        logits = model.eval()(**inputs).logits[real]
        hidden = model.base_model(**inputs).last_hidden_state
    batch = pack([loaded.tokenizer.encode(text).ids for text in TEXTS])
    assert batch.ids.tolist() == inputs["input_ids"][real].tolist()
    rows = np.flatnonzero(batch.ids == loaded.special.mask)
    assert len(rows) == len(TEXTS)
    states = loaded.encoder.encode(batch)
    torch.testing.assert_close(states.clone(), hidden[real], atol=1e-4, rtol=1e-4)
    best = loaded.head.top_k(loaded.encoder.encode(batch, rows), 5)
    expected = logits.log_softmax(-1)[rows].topk(5)
    assert best.ids.tolist() == expected.indices.tolist()
    torch.testing.assert_close(best.logprob.clone(), expected.values, atol=1e-4, rtol=1e-4)
    mask = inputs["attention_mask"][..., None]
    mean = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))
    torch.testing.assert_close(pool(states, batch).clone(), mean, atol=1e-4, rtol=1e-4)


def test_the_demo_model_has_learnt_something(loaded: LoadedModel) -> None:
    """Else the test above would compare noise with noise."""
    batch = pack([loaded.tokenizer.encode(text).ids for text in TEXTS])
    rows = np.flatnonzero(batch.ids == loaded.special.mask)
    best = loaded.head.top_k(loaded.encoder.encode(batch, rows), 10)
    assert best.entropy.mean() < 0.75 * np.log(loaded.info.vocabulary_size)
    assert "header" in [loaded.tokenizer.id_to_token(token) for token in best.ids[0].tolist()]
