"""`[registry]`: files that say what should serve, and how token ids are to be read."""

from __future__ import annotations

from typing import Annotated

import msgspec

__all__ = ["RegistryConfig"]


class RegistryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Files that say what should serve, and how token ids are to be read."""

    versions_file: Annotated[
        str | None,
        msgspec.Meta(
            description="TOML file of the expected model and tokenizer versions and digests, and of how the "
            "last training ended; read again when it changes. Left out: nothing is expected, so nothing "
            "mismatches."
        ),
    ] = None
    tokenizers: Annotated[
        dict[str, str],
        msgspec.Meta(
            description='tokenizer.json of a model version, as "MODEL/VERSION" = "PATH", or "MODEL" for all '
            "its versions: where events carry token ids without counts, the counts are made from it."
        ),
    ] = {}
