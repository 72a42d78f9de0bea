"""Shadow evaluation: how the answers compare with those of a reference that was sent the same texts.

The counters go by the arrival of the evaluations, the readings by their windows. `measure` is one of
`agreement`, `topk_overlap`, `rank_biased_overlap`, `probability_difference`, `kl_divergence`, `echo`,
`embedding_distance` (1 - cosine).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlmon.catalog.base import SERIES_LABELS, counter_triple, declare

if TYPE_CHECKING:
    from mlmon.catalog.base import Metric

_S = SERIES_LABELS

EVALUATIONS = counter_triple(
    "shadow_evaluations", "", (*_S, "measure"), "Replayed requests by the measure that they have"
)
MEASURE_SUM = declare(
    "mlmon_shadow_measure_sum",
    "counter",
    "",
    (*_S, "measure"),
    "Weighted sum of a measure over replayed requests (Σwx); divided by their Σw it is the mean.",
)
PROBABILITY_DIFFERENCE = counter_triple(
    "shadow_probability_difference",
    "",
    _S,
    "Largest difference of probabilities in one replayed request",
    kind="histogram",
)
REFERENCE = declare(
    "mlmon_shadow_reference",
    "info",
    "",
    (*_S, "reference"),
    "The reference that the newest evaluation names.",
)
MIRRORED = declare(
    "mlmon_mirror_requests",
    "counter",
    "",
    ("outcome",),
    "Requests offered to the mirror, told by the model server (outcome: written, passed_over, full, "
    "too_long, "
    "redacted, failed).",
)
MIRROR_QUEUE = declare("mlmon_mirror_queue", "gauge", "", (), "Mirrored requests that wait to be written.")


def _mean(name: str, unit: str, what: str) -> Metric:
    return declare(f"mlmon_shadow_{name}", "gauge", unit, _S, f"{what} over the window's replayed requests.")


AGREEMENT = _mean("agreement_ratio", "ratio", "Share with the reference's first answer")
TOPK_OVERLAP = _mean("topk_overlap_ratio", "ratio", "Mean share of the k best answers that both have")
RANK_BIASED_OVERLAP = _mean("rank_biased_overlap_ratio", "ratio", "Mean rank-biased overlap")
MEAN_DIFFERENCE = _mean("mean_probability_difference", "", "Mean of the largest difference of probabilities")
KL_DIVERGENCE = _mean("kl_divergence_nats", "nats", "Mean divergence of the answer from the reference")
ECHO = _mean("echo_ratio", "ratio", "Share whose answer carries the request's own text")
EMBEDDING_COSINE = _mean("embedding_cosine", "", "Mean cosine of the embeddings of both")
