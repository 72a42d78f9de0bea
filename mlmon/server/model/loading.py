"""From a directory or a hub id to a model that can be served: encoder, mask head, tokenizer, identity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
import transformers
from safetensors.torch import load_file

from mlmon.errors import ConfigError
from mlmon.server.model.architectures import ARCHITECTURES
from mlmon.server.model.fast import PackedEncoder, Speed
from mlmon.server.model.files import find_model, read_json
from mlmon.server.model.graphs import GraphedEncoder
from mlmon.server.model.heads import VocabularyHead
from mlmon.server.model.plain import PlainEncoder
from mlmon.server.model.tokens import load_tokenizer
from mlmon.server.model.weights import encoder_weights, head_weights, limits_of

if TYPE_CHECKING:
    from pathlib import Path

    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

    from mlmon.server.model.architectures import Architecture
    from mlmon.server.model.files import ModelFiles
    from mlmon.server.model.layout import Limits
    from mlmon.server.model.protocols import Encoder, MaskHead
    from mlmon.server.model.tokens import SpecialIds
    from mlmon.server.model.weights import Placement

__all__ = ["LoadConfig", "LoadedModel", "ModelInfo", "load_model"]

Path_ = Literal["packed", "plain"]
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class LoadConfig:
    """How a model is loaded.

    Attributes:
        device: `auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:N`.
        dtype: `auto` (bfloat16 on CUDA, float32 on the CPU), `float32`, `bfloat16` or `float16`.
        revision: branch, tag or commit on the hub; None is its main branch. Not for directories.
        offline: take only what is in the hub's cache.
        cache_dir: where the hub's files are kept; None is the hub's usual place.
        path: `auto` (packed where it can be), `packed`, or `plain` for transformers' own forward pass.
        max_logit_bytes: memory that logits may take at once; less means more, smaller products.
        compile: compile what is between the attentions (packed only); the first batches take a minute.
        graph_tokens: sizes of batch for which CUDA graphs are recorded (packed, CUDA), such as (64, 128,
            256); small batches then cost one launch. Empty: none.
        fused_gelu: GELU's tanh form may stand for the exact one on CUDA in 16 bit.
        flash: an implementation of Flash Attention to activate for the process, such as `FA3`; its package
            must be there. None: PyTorch's own.
    """

    device: str = "auto"
    dtype: str = "auto"
    revision: str | None = None
    offline: bool = False
    cache_dir: str | None = None
    path: Literal["auto", "packed", "plain"] = "auto"
    max_logit_bytes: int = 256 << 20
    compile: bool = False
    graph_tokens: tuple[int, ...] = ()
    fused_gelu: bool = True
    flash: str | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a model is.

    Attributes:
        name: hub id or directory name.
        architecture: transformers' class, such as `BertForMaskedLM`.
        model_type: such as `bert`.
        path: which forward pass runs.
        revision: commit on the hub; None for a directory.
        model_digest: of the weights, hex, as events carry it; see `files.ModelFiles.digest`.
        tokenizer_digest: of tokenizer.json, hex, as events carry it.
        dtype: `float32`, `bfloat16` or `float16`.
        device: such as `cuda:0`.
        max_length: tokens of the longest sequence, special tokens included.
        vocabulary_size: tokens the head can predict; at least the tokenizer's.
        hidden_size: width of a hidden state.
        layers: of the encoder.
        parameters: numbers in the model, head included; shared ones counted once.
    """

    name: str
    architecture: str
    model_type: str
    path: Path_
    revision: str | None
    model_digest: str
    tokenizer_digest: str
    dtype: str
    device: str
    max_length: int
    vocabulary_size: int
    hidden_size: int
    layers: int
    parameters: int


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model that can be served."""

    encoder: Encoder
    head: MaskHead
    tokenizer: Tokenizer
    special: SpecialIds
    info: ModelInfo


def load_model(source: str | Path, config: LoadConfig | None = None) -> LoadedModel:
    """Load a masked language model.

    Args:
        source: a directory, or a hub id such as `google-bert/bert-base-uncased`.
        config: how; None is `LoadConfig()`.

    Raises:
        ConfigError: the model cannot be found, is not safe to read, is of an architecture that is not known,
            lacks its head, mask token or tokenizer, or cannot run as the configuration wants. The message
            says which.
    """
    config = config or LoadConfig()
    device, dtype = _device(config.device), _DTYPES.get(config.dtype)
    if dtype is None:
        if config.dtype != "auto":
            raise ConfigError(f"dtype: expected auto, {', '.join(_DTYPES)}, got {config.dtype!r}")
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    files = find_model(source, config.revision, config.cache_dir, offline=config.offline)
    model_type, architecture = _architecture(files)
    tokenizer = load_tokenizer(files.directory)
    model = _read_model(files, architecture)
    limits = limits_of(model, architecture, tokenizer.max_length)
    _check_vocabulary(tokenizer.tokenizer, limits, files.name)
    encoder, path = _encoder(model, architecture, limits, (device, dtype), config)
    head = VocabularyHead(head_weights(model, architecture, (device, dtype)), config.max_logit_bytes)
    info = ModelInfo(
        name=files.name,
        architecture=architecture.class_name,
        model_type=model_type,
        path=path,
        revision=files.revision,
        model_digest=files.digest(),
        tokenizer_digest=tokenizer.digest,
        dtype=str(dtype).removeprefix("torch."),
        device=str(device),
        max_length=limits.length,
        vocabulary_size=head.vocabulary_size,
        hidden_size=encoder.hidden_size,
        layers=int(model.config.num_hidden_layers),
        parameters=sum(p.numel() for p in model.parameters()),
    )
    return LoadedModel(encoder, head, tokenizer.tokenizer, tokenizer.special, info)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device: expected auto, cpu, cuda or cuda:N, got {name!r}") from error
    if device.type == "cuda":
        if not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
            raise ConfigError(
                f"device: {name!r} is not there; PyTorch sees {torch.cuda.device_count()} of them"
            )
        return torch.device("cuda", device.index or 0)
    if device.type != "cpu":
        raise ConfigError(f"device: expected auto, cpu, cuda or cuda:N, got {name!r}")
    return device


def _architecture(files: ModelFiles) -> tuple[str, Architecture]:
    config = read_json(files.directory / "config.json", required=True)
    model_type = config.get("model_type")
    architecture = ARCHITECTURES.get(model_type) if isinstance(model_type, str) else None
    if architecture is None:
        raise ConfigError(
            f"model {files.name!r} is of type {model_type!r}; expected a masked language model of type "
            f"{', '.join(ARCHITECTURES)}; code that comes with a model is not run"
        )
    reasons = {
        "is a decoder": bool(config.get("is_decoder")),
        "is quantised": "quantization_config" in config,
        "has relative positions": config.get("position_embedding_type", "absolute") != "absolute",
    }
    for reason, true in reasons.items():
        if true:
            raise ConfigError(f"model {files.name!r} {reason}, which this server does not know how to run")
    return str(model_type), architecture


def _read_model(files: ModelFiles, architecture: Architecture) -> PreTrainedModel:
    """The model as transformers has it, on the CPU in float32, whatever config.json says of its dtype.

    The weights are read here and handed over: left to itself, transformers would look for adapters,
    distributed checkpoints and pickle as well.
    """
    class_ = getattr(transformers, architecture.class_name)
    try:
        weights = {name: t for shard in files.shards for name, t in load_file(shard).items()}
        config = class_.config_class.from_json_file(files.directory / "config.json")
        if any(name.startswith("lm_predictions.") for name in weights):
            config.legacy = False
        with _quiet():
            model, report = class_.from_pretrained(
                None,
                config=config,
                state_dict=weights,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except Exception as error:  # safetensors, configurations and transformers fail in ways of their own
        raise ConfigError(f"model {files.name!r} cannot be read: {error}") from error
    _check_report(report, files.name, architecture)
    return model.eval()  # type: ignore[no-any-return]


def _check_report(report: dict[str, Any], name: str, architecture: Architecture) -> None:
    mismatched = sorted(str(key) for key in report["mismatched_keys"])
    if mismatched:
        raise ConfigError(
            f"model {name!r}: the weights are not of the shapes that config.json says, at {mismatched[0]}"
        )
    missing = sorted(report["missing_keys"])
    if missing:
        few = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise ConfigError(
            f"model {name!r} is no complete {architecture.class_name}: its weights lack {few}; expected "
            "a checkpoint with its masked-language-model head, not one fine-tuned for another task or an "
            "ELECTRA discriminator"
        )


class _quiet:  # noqa: N801 - reads as a verb
    """transformers without progress bars and load reports; `_check_report` tells what they would."""

    def __enter__(self) -> None:
        log = transformers.utils.logging
        self._level, self._bars = log.get_verbosity(), log.is_progress_bar_enabled()
        log.set_verbosity_error()  # type: ignore[no-untyped-call]
        log.disable_progress_bar()  # type: ignore[no-untyped-call]

    def __exit__(self, *_: object) -> None:
        transformers.utils.logging.set_verbosity(self._level)
        if self._bars:
            transformers.utils.logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _check_vocabulary(tokenizer: Tokenizer, limits: Limits, name: str) -> None:
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values())
    if largest >= limits.vocabulary:
        raise ConfigError(
            f"model {name!r}: its tokenizer has ids up to {largest}, its embeddings end at "
            f"{limits.vocabulary - 1}; the tokenizer is of another model"
        )


def _encoder(
    model: PreTrainedModel,
    architecture: Architecture,
    limits: Limits,
    to: Placement,
    config: LoadConfig,
) -> tuple[Encoder, Path_]:
    possible = architecture.layers is not None
    if config.path == "packed" and not possible:
        known = ", ".join(name for name, entry in ARCHITECTURES.items() if entry.layers is not None)
        raise ConfigError(f"path: packed is for {known}, got {architecture.class_name}; use auto or plain")
    if config.path == "plain" or not possible:
        if config.compile or config.graph_tokens:
            raise ConfigError(
                "compile and graph_tokens are for the packed path, and this model runs the plain one"
            )
        base: Any = model.base_model.to(device=to[0], dtype=to[1])
        padding = model.config.pad_token_id
        return PlainEncoder(base, limits, 0 if padding is None else int(padding)), "plain"
    if config.flash is not None:
        _activate_flash(config.flash)
    weights = encoder_weights(model, architecture, limits, to)
    packed = PackedEncoder(weights, speed=Speed(compile=config.compile, fused_gelu=config.fused_gelu))
    if not config.graph_tokens:
        return packed, "packed"
    if to[0].type != "cuda":
        raise ConfigError(f"graph_tokens: CUDA graphs need CUDA, the model is on {to[0]}; leave it out")
    return GraphedEncoder(packed, config.graph_tokens), "packed"


def _activate_flash(name: str) -> None:
    from torch.nn import attention

    try:
        attention.activate_flash_attention_impl(name)
    except (AttributeError, ImportError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"flash: {name!r} cannot be activated: {error}; leave it out for PyTorch's own"
        ) from error
