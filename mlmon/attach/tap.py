"""What a tap is told: whom it speaks for, what it watches, and the user's functions that look into bodies."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from mlmon.errors import ConfigError
from mlmon.events.sampling import Sampler

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mlmon.attach.emitter import Emitter
    from mlmon.attach.mirror import Mirror
    from mlmon.attach.text import TextStatistics
    from mlmon.events.privacy import InputHasher

__all__ = ["Tap", "TapConfig", "TapHooks", "text_from"]

_Name = Annotated[str, msgspec.Meta(min_length=1)]
_Status = Literal["client_error", "error", "timeout"]


class TapConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every event of this server says, and which requests become events."""

    service: Annotated[str, msgspec.Meta(min_length=1, description="Name of the service.")]
    model_name: Annotated[
        str, msgspec.Meta(min_length=1, description="Name of the model; `extract` may name another.")
    ]
    model_version: Annotated[str | None, msgspec.Meta(description="Version of the model that answers.")] = (
        None
    )
    model_digest: Annotated[str | None, msgspec.Meta(description="Digest of the model's weights.")] = None
    tokenizer_version: Annotated[str | None, msgspec.Meta(description="Version of the tokenizer.")] = None
    deployment: Annotated[
        Literal["stable", "canary", "shadow"] | None,
        msgspec.Meta(description="What this replica is for; none means stable."),
    ] = None
    instance: Annotated[
        str | None, msgspec.Meta(description="Name of this replica; none: host name and process id.")
    ] = None
    task: Annotated[str | None, msgspec.Meta(description="classification, ner, qa, fill-mask, ...")] = None
    sample_rate: Annotated[
        float,
        msgspec.Meta(
            ge=0,
            le=1,
            description="Fraction of ordinary requests that become events. Raising it narrows every error "
            "bar and costs time of the server.",
        ),
    ] = 1.0
    paths: Annotated[
        tuple[_Name, ...],
        msgspec.Meta(
            description="Paths to watch, without the server's root path; one that ends in * is a prefix. "
            "Empty: all."
        ),
    ] = ()
    max_body_bytes: Annotated[
        int,
        msgspec.Meta(
            ge=0,
            le=1 << 30,
            description="Bytes looked at of each request and each response body. A longer body is not "
            "parsed, and counted. Raising it takes memory of the queue.",
        ),
    ] = 256 * 1024
    always_keep: Annotated[
        tuple[_Status, ...],
        msgspec.Meta(description="Statuses kept whatever the sample rate, with weight 1."),
    ] = ("error", "timeout")
    timeout_statuses: Annotated[
        tuple[int, ...], msgspec.Meta(description="HTTP statuses that mean a timeout.")
    ] = (408, 504)


@dataclass(frozen=True, slots=True)
class TapHooks:
    """The user's part. It runs in the emitter's thread after the response, on sampled requests answered `ok`.

    Whatever a hook raises is counted and costs the event only what that hook would have filled.

    Attributes:
        text: parsed JSON of the request to the text or texts that went into the model, or None.
        extract: parsed JSON of request and response (None where a body is not JSON) to values by name of an
            `Event` field: prediction, confidence, entropy, top_labels, top_scores, embedding,
            numeric_features, categorical_features, segments, language, batch_size, latency parts, and what
            else the response knows, such as model_version. NumPy values are fine.
        tokenizer: measures the texts; None counts characters only.
        hasher: names the input by a keyed hash; None leaves `input_hash` out.
        mirror: keeps the texts of a few requests for shadow evaluation (docs/shadow.md); None keeps no text.
            Needs `text`.
    """

    text: Callable[[Any], str | Sequence[str] | None] | None = None
    extract: Callable[[Any, Any], Mapping[str, Any]] | None = None
    tokenizer: TextStatistics | None = None
    hasher: InputHasher | None = None
    mirror: Mirror | None = None


def text_from(*names: str) -> Callable[[Any], str | list[str] | None]:
    """A `text` hook for requests that are JSON objects: the first of these keys that is there.

    Example:
        >>> text_from("text", "inputs")({"inputs": ["a", "b"]})
        ['a', 'b']
    """

    def text(request: Any) -> str | list[str] | None:
        found = (request.get(name) for name in names) if isinstance(request, dict) else ()
        return next((value for value in found if value is not None), None)

    return text


class Tap:
    """Configuration, hooks and emitter, made ready for the request path. Immutable.

    Raises:
        ConfigError: the configuration has values its types do not allow.
    """

    __slots__ = ("_instance", "_paths", "_prefixes", "config", "emitter", "hooks", "identity", "sampler")

    def __init__(self, emitter: Emitter, config: TapConfig, hooks: TapHooks | None = None) -> None:
        try:
            # a Struct built in code is not checked by msgspec; one built from a file is
            self.config = msgspec.convert(msgspec.structs.asdict(config), TapConfig)
        except msgspec.ValidationError as error:
            raise ConfigError(f"the tap of {config.service!r} cannot be configured: {error}") from error
        self.emitter = emitter
        self.hooks = hooks or TapHooks()
        self.sampler = Sampler(config.sample_rate, config.always_keep)
        self._paths = frozenset(path for path in config.paths if not path.endswith("*"))
        self._prefixes = tuple(path[:-1] for path in config.paths if path.endswith("*"))
        self._instance: tuple[int, str] = (-1, "")
        names = ("service", "model_name", "model_version", "model_digest", "tokenizer_version")
        self.identity = {name: getattr(config, name) for name in (*names, "deployment", "task")}

    def watches(self, scope: Mapping[str, Any]) -> bool:
        """Whether requests with this ASGI scope become events."""
        if scope["method"] in ("OPTIONS", "HEAD"):
            return False
        if not self._paths and not self._prefixes:
            return True
        path, root = scope["path"], scope.get("root_path")
        if root:
            path = path.removeprefix(root)
        return path in self._paths or (bool(self._prefixes) and path.startswith(self._prefixes))

    def instance(self) -> str:
        """Name of this replica: as configured, or host name and process id."""
        if self.config.instance is not None:
            return self.config.instance
        pid = os.getpid()
        if self._instance[0] != pid:
            self._instance = (pid, f"{platform.node()}:{pid}")
        return self._instance[1]

    def status_of(self, code: int) -> str:
        """What an HTTP status means in the contract."""
        if code in self.config.timeout_statuses:
            return "timeout"
        return "ok" if code < 400 else "client_error" if code < 500 else "error"
