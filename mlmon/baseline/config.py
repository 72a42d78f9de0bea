"""`[baseline]`: which baselines drift is judged by."""

from __future__ import annotations

from typing import Annotated

import msgspec

__all__ = ["BaselineConfig"]


class BaselineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which baselines drift is judged by. Without any, drift is not judged."""

    files: Annotated[
        tuple[str, ...],
        msgspec.Meta(
            description="Baseline files that `mlmon baseline build` wrote, as paths or URLs that fsspec "
            "reads (s3://bucket/name.baseline.safetensors with s3fs installed). Read at start. Where two "
            "cover the same service, model and version, the newer one counts."
        ),
    ] = ()
    digests: Annotated[
        dict[str, str],
        msgspec.Meta(
            description='Digest that a file must have, as "FILE" = "HEX" (`mlmon baseline show` prints it). '
            "A file that has another one is refused."
        ),
    ] = {}
