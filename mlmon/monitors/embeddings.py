"""Do embeddings still come from where the reference came from: mean, spread, length, and golden probes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec

from mlmon.baseline.model import no_parameters
from mlmon.monitors.drift_monitor import FieldMonitor
from mlmon.monitors.drift_rows import ROW_FIELDS
from mlmon.monitors.embedding_fields import EmbeddingExtractor
from mlmon.monitors.embedding_learner import EmbeddingLearner
from mlmon.stats.quadratic import DEFAULT_TOLERANCE

if TYPE_CHECKING:
    from mlmon.baseline.model import FindParameters, Parameters

__all__ = ["EmbeddingsConfig", "EmbeddingsMonitor"]


class EmbeddingsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[monitors.embeddings]`: what a baseline learns of embeddings; changes count from the next one on."""

    shift_tolerance: Annotated[
        float,
        msgspec.Meta(
            ge=0,
            le=100,
            description="Shift of the mean embedding that is not worth a page, in standard deviations "
            "(Mahalanobis distance). Raising it lets slow changes of topic pass.",
        ),
    ] = DEFAULT_TOLERANCE["vector"]
    typicality_tolerance: Annotated[
        float,
        msgspec.Meta(
            ge=0,
            le=100,
            description="Change of the mean distance from the centre that is not worth a page, in its "
            "standard deviations.",
        ),
    ] = DEFAULT_TOLERANCE["vector"]
    norm_tolerance: Annotated[
        float,
        msgspec.Meta(
            ge=0,
            le=100,
            description="Change of the mean length of embeddings that is not worth a page, in its standard "
            "deviations (at least 1 % of the length).",
        ),
    ] = DEFAULT_TOLERANCE["vector"]
    max_probes: Annotated[
        int,
        msgspec.Meta(
            ge=0, le=1024, description="Most golden probes watched, in probe ids; others are ignored."
        ),
    ] = 64
    probe_tolerance: Annotated[
        float,
        msgspec.Meta(
            gt=0,
            le=1,
            description="Distance of a golden probe's embedding from its reference that is not worth a page, "
            "as a share of the embedding's length; where repeats in the baseline differ by more, that "
            "counts. Numerical noise is about 0.000001, a cast to bfloat16 0.0065.",
        ),
    ] = 0.001


class EmbeddingsMonitor(FieldMonitor):
    """Embeddings of each series against those of its baseline.

    Reads `embedding`, `status`, `probe_id`, `sampling_weight`, of events answered `ok`. Null embeddings are
    left out; nothing is read of a series that no baseline covers.

    Makes the fields

    - `shift`: the mean embedding. Q = |Wᵀ(x̄ - μ)|² with the Ledoit-Wolf whitening W of the reference, whose
      columns are its principal directions; constant dimensions are left out. Rises with a change of topic,
      language, or model.
    - `typicality`: mean of |Wᵀ(x - μ)|² over what it is for the reference, so 1 is usual; cut at the
      reference's 99 % quantile. Sees spread and outliers that keep the mean.
    - `norm`: mean L2 norm. Sees a lost normalisation.
    - `invalid`: share of embeddings that are not finite or of another dimension.
    - `probe:ID`: share of a golden probe's repeats that moved: whose embedding is further from its reference,
      as a share of its length, than `probe_tolerance` and than three times what repeats in the reference
      are. `probes`: the same of all probes; `probe_distance`: their mean distance in that unit. They see a
      wrong model or number format, which no statistic of traffic sees: the text is always the same. Rates,
      because repeats of a deterministic model are equal, and a mean without variance has no null. Probes are
      in no other field.

    Needs a baseline with 25 events a dimension or more. It cannot see a change of meaning that keeps mean and
    spread, nor of dimensions that were constant in the reference.

    Memory of a series and window: 8·d bytes. Fields: 4, with probes 6 and one for each, at most `max_probes`.

    Args:
        config: tolerances, bounds.
        parameters: what a baseline says.
    """

    name = "embeddings"
    reads: ClassVar[frozenset[str]] = ROW_FIELDS | {"embedding", "model_version"}

    def __init__(self, config: EmbeddingsConfig, parameters: FindParameters = no_parameters) -> None:
        super().__init__(parameters)
        self._config = config

    def learner(self) -> EmbeddingLearner:
        """A new first pass over a reference."""
        return EmbeddingLearner(self._config)

    def extractor(self, parameters: Parameters) -> EmbeddingExtractor:
        """How events become fields."""
        return EmbeddingExtractor(parameters)
