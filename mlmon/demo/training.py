"""What the demo serves is trained here: a WordPiece tokenizer and the model, and what can be wrong with each.

    python -m mlmon.demo.training FOLDER

The wrong tokenizer is the same vocabulary with lowercasing off, the damaged model has noise in the weights of
one layer: mistakes that fail nothing. A process of its own, so that the number of its threads can be chosen.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from mlmon.demo.corpus import docstring_sentences, labelled_queries, query, travel_queries
from mlmon.demo.encoder import Encoder

__all__ = ["CASED", "DAMAGED", "TOKENIZER", "WEIGHTS", "train"]

#: Files of a folder that `train` fills.
TOKENIZER, CASED = "tokenizer.json", "tokenizer-cased.json"
WEIGHTS, DAMAGED = "model.safetensors", "model-damaged.safetensors"
#: Noise in the layer of the damaged model, as a share of its weights.
_NOISE = 0.2
_EXAMPLES = 4000
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def train(folder: Path) -> None:
    """Train tokenizer and model, and save them with what is wrong in the same way: four files.

    The tokenizer has seen text of every kind, as tokenizers have; the model has seen banking alone. The
    library numbers tokens differently each time; of one tokenizer the same model is made.
    """
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106 - a token, not a secret
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=4000, special_tokens=_SPECIAL, show_progress=False)
    texts = docstring_sentences() + [text for _, text in labelled_queries() + travel_queries()]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.enable_truncation(64)
    tokenizer.save(str(folder / TOKENIZER))
    rng = random.Random(0)  # noqa: S311 - examples, not secrets
    examples = [query(rng) for _ in range(_EXAMPLES)]
    encoded = tokenizer.encode_batch([text for _, text in examples])
    model = Encoder.train([(label, made.ids) for (label, _), made in zip(examples, encoded, strict=True)])
    model.save(folder / WEIGHTS)
    model.damaged(_NOISE).save(folder / DAMAGED)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.save(str(folder / CASED))


if __name__ == "__main__":
    train(Path(sys.argv[1]))
