"""Shadow evaluation: a sample of requests, replayed to a reference, and what the answers have in common.

The mirror (`mlmon.attach.mirror`) keeps the sample; `run` reads it, replays it, and writes one evaluation
event for each request, which the sidecar's monitor and objectives count.
"""

from __future__ import annotations

from mlmon.shadow.compare import Comparison, compare
from mlmon.shadow.config import EndpointConfig, ShadowConfig
from mlmon.shadow.evaluate import Evaluator
from mlmon.shadow.report import WindowReport
from mlmon.shadow.run import Parts, Shadow, build_shadow

__all__ = [
    "Comparison",
    "EndpointConfig",
    "Evaluator",
    "Parts",
    "Shadow",
    "ShadowConfig",
    "WindowReport",
    "build_shadow",
    "compare",
]
