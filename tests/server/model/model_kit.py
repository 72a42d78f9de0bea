"""Small models of every architecture, with random weights, saved as a checkpoint is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from mlmon.server.model import pack

if TYPE_CHECKING:
    from pathlib import Path

    from mlmon.server.model import Packed

VOCABULARY, LONGEST = 130, 48
#: More than one sequence of a length, lengths out of order, a single token, the longest that fits.
LENGTHS = (5, 17, 3, 17, LONGEST, 1, 9, 3, 30)


@dataclass(frozen=True)
class Made:
    """A saved model, and the same as transformers has it."""

    kind: str
    directory: Path
    model: Any

    @property
    def special(self) -> dict[str, int]:
        """Ids of the special tokens."""
        return ROBERTA if "roberta" in self.kind else BERT


BERT = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}
ROBERTA = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4}

_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "max_position_embeddings": LONGEST,
    "type_vocab_size": 2,
    "initializer_range": 0.25,
    "layer_norm_eps": 1e-3,  # large, so that another value would show
}
_ROBERTA = _SIZES | {
    "max_position_embeddings": LONGEST + 2,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "type_vocab_size": 1,
}
_DEBERTA = _SIZES | {
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
    "position_biased_input": False,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "position_buckets": 8,
    "max_relative_positions": -1,
    "type_vocab_size": 0,
}
#: The makers of every architecture that is served, and of variants of it.
CONFIGURATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", _SIZES),
    "bert-relu": ("Bert", _SIZES | {"hidden_act": "relu"}),
    "bert-untied": ("Bert", _SIZES | {"tie_word_embeddings": False, "hidden_act": "gelu_new"}),
    "bert-quick": ("Bert", _SIZES | {"hidden_act": "quick_gelu"}),
    "roberta": ("Roberta", _ROBERTA),
    "roberta-tanh": ("Roberta", _ROBERTA | {"hidden_act": "gelu_new"}),
    "xlm-roberta": ("XLMRoberta", _ROBERTA),
    "distilbert": (
        "DistilBert",
        {
            "vocab_size": VOCABULARY,
            "dim": 48,
            "n_layers": 3,
            "n_heads": 4,
            "hidden_dim": 80,
            "max_position_embeddings": LONGEST,
            "initializer_range": 0.25,
            "sinusoidal_pos_embds": True,
        },
    ),
    "albert": ("Albert", _SIZES | {"embedding_size": 24, "num_hidden_groups": 1}),
    "electra": ("Electra", _SIZES | {"embedding_size": 24}),
    "deberta": ("DebertaV2", _DEBERTA),
    "deberta-late-head": ("DebertaV2", _DEBERTA | {"legacy": False}),
    "modernbert": (
        "ModernBert",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 80,
            "max_position_embeddings": LONGEST,
            "initializer_range": 0.25,
            "local_attention": 8,
            "global_attn_every_n_layers": 2,
            "pad_token_id": 0,
            "bos_token_id": 2,
            "eos_token_id": 3,
            "cls_token_id": 2,
            "sep_token_id": 3,
            "decoder_bias": True,
        },
    ),
}


def tokenizer_of(special: dict[str, int]) -> Tokenizer:
    """Words w5 to w129 between two control tokens; it pads and truncates, as many a tokenizer.json says."""
    first, last = ("<s>", "</s>") if "<s>" in special else ("[CLS]", "[SEP]")
    words = special | {f"w{i}": i for i in range(len(special), VOCABULARY)}
    made = Tokenizer(models.WordLevel(words, unk_token=next(t for t in special if "unk" in t.lower())))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(list(special))
    made.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} $B:1 {last}:1",
        special_tokens=[(first, special[first]), (last, special[last])],
    )
    made.enable_padding(length=10)
    made.enable_truncation(max_length=6)
    return made


def make_model(kind: str) -> Any:
    """A model in evaluation mode whose biases and norms are random too."""
    prefix, settings = CONFIGURATIONS[kind]
    torch.manual_seed(7)
    model = getattr(transformers, f"{prefix}ForMaskedLM")(
        getattr(transformers, f"{prefix}Config")(**settings)
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.randn_like(parameter) * 0.3 + ("orm.weight" in name))
            elif "embeddings" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.5)
    return model.eval()


def save(model: Any, directory: Path, special: dict[str, int]) -> None:
    """Write weights, configuration and tokenizer."""
    model.save_pretrained(directory)
    tokenizer_of(special).save(str(directory / "tokenizer.json"))
    mask = next(token for token in special if "mask" in token.lower())
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"mask_token": {"content": mask}, "model_max_length": 10**30})
    )


def random_batch(lengths: tuple[int, ...], seed: int = 3) -> Packed:
    """Sequences of ordinary tokens and masks, the second half of each in segment 1."""
    rng = np.random.default_rng(seed)
    ids = [rng.integers(4, VOCABULARY, n).tolist() for n in lengths]
    return pack(ids, [[0] * (n - n // 2) + [1] * (n // 2) for n in lengths])


def padded(batch: Packed, padding: int) -> dict[str, torch.Tensor]:
    """What transformers takes: one rectangle, with a mask."""
    shape = (batch.sequences, batch.max_length)
    ids, mask, segments = np.full(shape, padding), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for i, (start, length) in enumerate(zip(batch.starts, batch.lengths, strict=True)):
        ids[i, :length], mask[i, :length] = batch.ids[start : start + length], 1
        if batch.segments is not None:
            segments[i, :length] = batch.segments[start : start + length]
    return {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy(mask),
        "token_type_ids": torch.from_numpy(segments),
    }


@dataclass(frozen=True)
class Oracle:
    """What transformers answers, at the real tokens."""

    hidden: torch.Tensor
    logits: torch.Tensor


def ask(made: Made, batch: Packed) -> Oracle:
    """Run transformers' own model over the padded batch."""
    inputs = padded(batch, next(i for token, i in made.special.items() if "pad" in token.lower()))
    if made.kind in ("distilbert", "modernbert"):
        del inputs["token_type_ids"]
    elif "roberta" in made.kind or "deberta" in made.kind:
        inputs["token_type_ids"] = torch.zeros_like(inputs["token_type_ids"])
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        hidden = made.model.base_model(**inputs).last_hidden_state[real]
        logits = made.model(**inputs).logits[real]
    return Oracle(hidden, logits)
