"""Which masked language models can be served, and where each keeps its parts: one literal table.

A new architecture is one entry. `layers` is set for those that the packed encoder knows; the others run as
transformers has them. Names are those of transformers' modules, which every checkpoint is brought to when it
is loaded, whatever names it was saved with.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ARCHITECTURES", "Architecture", "HeadNames", "LayerNames"]


@dataclass(frozen=True, slots=True)
class LayerNames:
    """Modules of the encoder; those of a layer below `{layers}.{i}`."""

    embeddings: str
    layers: str
    query: str
    key: str
    value: str
    out: str
    attention_norm: str
    up: str
    down: str
    output_norm: str


@dataclass(frozen=True, slots=True)
class HeadNames:
    """Modules of the mask head, in the order they are applied: dense, activation, norm, decoder.

    Attributes:
        activation: its name, or `config.X` for the value of the configuration's field X.
    """

    dense: str
    norm: str
    decoder: str
    activation: str


@dataclass(frozen=True, slots=True)
class Architecture:
    """One architecture.

    Attributes:
        class_name: of transformers' masked language model.
        head: where its mask head is.
        layers: where its encoder's parts are; None where there is no packed encoder.
        positions_after_padding: positions are counted from the padding id + 1, as fairseq did.
    """

    class_name: str
    head: HeadNames
    layers: LayerNames | None = None
    positions_after_padding: bool = False


def _bert_layers(prefix: str) -> LayerNames:
    return LayerNames(
        embeddings=f"{prefix}.embeddings",
        layers=f"{prefix}.encoder.layer",
        query="attention.self.query",
        key="attention.self.key",
        value="attention.self.value",
        out="attention.output.dense",
        attention_norm="attention.output.LayerNorm",
        up="intermediate.dense",
        down="output.dense",
        output_norm="output.LayerNorm",
    )


_BERT_HEAD = HeadNames(
    "cls.predictions.transform.dense",
    "cls.predictions.transform.LayerNorm",
    "cls.predictions.decoder",
    "config.hidden_act",
)
_ROBERTA_HEAD = HeadNames("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "gelu")

#: By `model_type` of config.json.
ARCHITECTURES: dict[str, Architecture] = {
    "bert": Architecture("BertForMaskedLM", _BERT_HEAD, _bert_layers("bert")),
    "roberta": Architecture("RobertaForMaskedLM", _ROBERTA_HEAD, _bert_layers("roberta"), True),
    "xlm-roberta": Architecture("XLMRobertaForMaskedLM", _ROBERTA_HEAD, _bert_layers("roberta"), True),
    "distilbert": Architecture(
        "DistilBertForMaskedLM",
        HeadNames("vocab_transform", "vocab_layer_norm", "vocab_projector", "config.activation"),
        LayerNames(
            embeddings="distilbert.embeddings",
            layers="distilbert.transformer.layer",
            query="attention.q_lin",
            key="attention.k_lin",
            value="attention.v_lin",
            out="attention.out_lin",
            attention_norm="sa_layer_norm",
            up="ffn.lin1",
            down="ffn.lin2",
            output_norm="output_layer_norm",
        ),
    ),
    "albert": Architecture(
        "AlbertForMaskedLM",
        HeadNames("predictions.dense", "predictions.LayerNorm", "predictions.decoder", "config.hidden_act"),
    ),
    "electra": Architecture(
        "ElectraForMaskedLM",
        HeadNames(
            "generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head", "gelu"
        ),
    ),
    # of two heads; the other one, of checkpoints that name it lm_predictions, is found in `heads.find_head`
    "deberta-v2": Architecture("DebertaV2ForMaskedLM", _BERT_HEAD),
    "modernbert": Architecture(
        "ModernBertForMaskedLM",
        HeadNames("head.dense", "head.norm", "decoder", "config.classifier_activation"),
    ),
}
