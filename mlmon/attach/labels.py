"""Labels to the log: what turned out to be true of requests, said by whoever comes to know it.

A feedback endpoint of the model server uses the tap's emitter; a labelling job has an emitter of its own. A
label restates the prediction it is about, so that nothing downstream must remember requests until their
labels come. A label that is sent twice counts twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from mlmon.clock import SystemClock
from mlmon.errors import ConfigError
from mlmon.events.codecs.checks import EARLIEST_US
from mlmon.events.event import Event
from mlmon.events.sampling import Sampler

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlmon.attach.emitter import Emitter
    from mlmon.clock import Clock

__all__ = ["Label", "LabelConfig", "LabelSender"]

_Name = Annotated[str, msgspec.Meta(min_length=1)]


class LabelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whose requests are labelled, and how many of the labels are sent."""

    service: Annotated[_Name, msgspec.Meta(description="Name of the service, as in its TapConfig.")]
    model_name: Annotated[_Name, msgspec.Meta(description="Name of the model, as in its TapConfig.")]
    model_version: Annotated[
        str | None, msgspec.Meta(description="Version of the model that answered; a label may name another.")
    ] = None
    deployment: Annotated[
        Literal["stable", "canary", "shadow"] | None,
        msgspec.Meta(description="Deployment that answered; none means stable."),
    ] = None
    sample_rate: Annotated[
        float,
        msgspec.Meta(
            gt=0,
            le=1,
            description="Fraction of labels that are sent, chosen by the hash of event_id as the tap chooses "
            "requests: at the tap's own rate, the labels of the requests it kept. Raising it narrows every "
            "error bar.",
        ),
    ] = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """The truth about one request.

    Attributes:
        event_id: of the request, such as its `x-request-id`.
        request_time: when the request arrived, µs since 1970 UTC.
        label: the truth, in the words of `prediction`.
        prediction: what the server had answered; needed with a label.
        labelled_masked_tokens: masked tokens whose true token is known; with `right_masked_tokens`, in place
            of a label or beside it.
        right_masked_tokens: those of them that were predicted right.
        model_version: that answered; None takes the sender's.
        deployment: that answered; None takes the sender's.
        segments: as of the request.
        sampling_weight: of the request, where only sampled requests are ever labelled; None means that any
            request may be, so that a label stands for itself.

    Raises:
        ValueError: a label without prediction, counts that cannot be, or a time of another unit.

    Example:
        >>> Label(event_id="r-1", request_time=1_767_225_600, label="spam", prediction="ham")
        Traceback (most recent call last):
            ...
        ValueError: label of r-1: expected request_time in µs since 1970, 2000 or later, got 1767225600
    """

    event_id: str
    request_time: int
    label: str | None = None
    prediction: str | None = None
    labelled_masked_tokens: int | None = None
    right_masked_tokens: int | None = None
    model_version: str | None = None
    deployment: str | None = None
    segments: Mapping[str, str] | None = None
    sampling_weight: float | None = None

    def __post_init__(self) -> None:
        fault = self._fault()
        if fault:
            raise ValueError(f"label of {self.event_id}: {fault}")

    def _fault(self) -> str:
        every, right, weight = self.labelled_masked_tokens, self.right_masked_tokens, self.sampling_weight
        if self.request_time < EARLIEST_US:
            return f"expected request_time in µs since 1970, 2000 or later, got {self.request_time}"
        if self.label is None and every is None:
            return "expected label, or labelled_masked_tokens and right_masked_tokens, got neither"
        if self.label is not None and self.prediction is None:
            return (
                f"expected the prediction that {self.label!r} is about, got none: "
                "give what the server had answered"
            )
        if (every is None) != (right is None) or (every is not None and not 0 <= (right or 0) <= every):
            return f"expected 0 <= right_masked_tokens <= labelled_masked_tokens, got {right} of {every}"
        if weight is not None and not 1.0 <= weight <= 1e9:
            return f"expected sampling_weight of at least 1, that of the request, got {weight}"
        return ""


class LabelSender:
    """Sends labels through an emitter: never waits for the log, never raises.

    Weights: a label of any request stands for itself, or for 1 / `sample_rate` if only so many are sent. A
    label that says its request's `sampling_weight` stands for that many, or for more at a lower rate: both
    choices are made by one hash of `event_id`, so that what is kept at a low rate is kept at higher ones, and
    sums of weights stay estimates of all labels.

    Args:
        emitter: takes the label events.
        config: whose labels.
        clock: says when a label came.

    Raises:
        ConfigError: the configuration has values its types do not allow.

    Example:
        >>> import tempfile
        >>> from mlmon.attach import Emitter, SpoolSink
        >>> from mlmon.sources.spool import SpoolWriterConfig
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     emitter = Emitter(SpoolSink(SpoolWriterConfig(directory)))
        ...     sender = LabelSender(emitter, LabelConfig(service="shop", model_name="intent"))
        ...     time = 1_767_225_600_000_000
        ...     sent = sender.send(Label(event_id="r-1", request_time=time, label="a", prediction="b"))
        ...     closed = emitter.close(5.0)
        >>> sent, closed, emitter.stats().sent_events
        (True, True, 1)
    """

    def __init__(self, emitter: Emitter, config: LabelConfig, clock: Clock | None = None) -> None:
        try:
            # a Struct built in code is not checked by msgspec; one built from a file is
            self.config = msgspec.convert(msgspec.structs.asdict(config), LabelConfig)
        except msgspec.ValidationError as error:
            raise ConfigError(f"labels of {config.service!r} cannot be sent: {error}") from error
        self._emitter = emitter
        self._sampler = Sampler(config.sample_rate, ())
        self._clock = clock or SystemClock()

    def send(self, label: Label) -> bool:
        """Queue a label; False when the emitter dropped it. One left out by the sample rate is no loss: True.

        The label came now, but never before its request: this machine's clock may be behind the server's.
        """
        weight = self._sampler.weigh(label.event_id, "ok")
        if not weight:
            return True
        event = Event(
            event_id=label.event_id,
            event_time=max(self._clock.now_us(), label.request_time),
            request_time=label.request_time,
            service=self.config.service,
            model_name=self.config.model_name,
            model_version=label.model_version or self.config.model_version,
            deployment=label.deployment or self.config.deployment,
            prediction=label.prediction,
            label=label.label,
            labelled_masked_tokens=label.labelled_masked_tokens,
            right_masked_tokens=label.right_masked_tokens,
            segments=None if label.segments is None else dict(label.segments),
            sampling_weight=max(weight, label.sampling_weight or 1.0),
        )
        return self._emitter.emit(event)
