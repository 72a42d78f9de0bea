"""Which events are kept, and what a kept event stands for.

The decision is a pure function of the request id: the same id gives the same answer in every process and on
every machine, so two taps on one request keep it together or not at all. It is taken before anything is
buffered. Events whose status is in `always_keep` are kept whatever their id and weigh 1; every other kept
event weighs 1 / inclusion probability, so that Σw estimates all traffic without bias (Horvitz-Thompson).

Why a hash and not a random number: it can be repeated, in tests and by whoever asks why an event is missing.
The hash needs no key, because it hides nothing: a client that picks its own ids picks what is sampled.
"""

from __future__ import annotations

import hashlib

from mlmon.errors import ConfigError
from mlmon.events.schema import STATUSES

__all__ = ["ALWAYS_KEEP", "Sampler", "sample_hash"]

#: Statuses kept by default whatever their id.
ALWAYS_KEEP = ("error", "timeout")

_SPACE = 2**64
_PERSON = b"mlmon-keep-v1"
_BASE = hashlib.blake2b(digest_size=8, person=_PERSON)


def sample_hash(request_id: str) -> int:
    """The place of a request id in [0, 2**64), uniform over ids: BLAKE2b, personalised, big-endian.

    An event is kept at rate r exactly when its place is below r·2**64; so what is kept at a low rate is
    also kept at every higher one.

    Example:
        >>> sample_hash("request-1") == sample_hash("request-1") < 2**64
        True
    """
    digest = _BASE.copy()
    digest.update(request_id.encode("utf-8", "surrogatepass"))
    return int.from_bytes(digest.digest(), "big")


class Sampler:
    """Keeps a fixed fraction of events by their request id. Immutable; any number of threads may use it.

    Args:
        rate: fraction of ordinary events to keep, 0 to 1. It is rounded up to a multiple of 2**-64.
        always_keep: statuses kept with weight 1.

    Raises:
        ConfigError: the rate is outside 0 to 1, or a status is not one of the contract.

    Example:
        >>> sampler = Sampler(0.25)
        >>> sampler.weight
        4.0
        >>> sampler.weigh("request-1", "error")
        1.0
        >>> kept = [f"r{i}" for i in range(10_000) if sampler.keep(f"r{i}")]
        >>> 2300 < len(kept) < 2700
        True
    """

    __slots__ = ("_all", "_threshold", "always_keep", "probability", "weight")

    def __init__(self, rate: float, always_keep: tuple[str, ...] = ALWAYS_KEEP) -> None:
        if not 0.0 <= rate <= 1.0:
            raise ConfigError(f"sample_rate = {rate!r}: expected a fraction from 0 to 1; 0.05 keeps 5 %")
        unknown = sorted(set(always_keep) - set(STATUSES))
        if unknown:
            raise ConfigError(f"always_keep has {unknown}: expected statuses out of {list(STATUSES)}")
        numerator, denominator = float(rate).as_integer_ratio()
        count = -(-numerator * _SPACE // denominator)
        self._all = count >= _SPACE
        self._threshold = b"" if self._all else count.to_bytes(8, "big")
        self.always_keep = frozenset(always_keep)
        #: Inclusion probability of an ordinary event, exactly as decided.
        self.probability = count / _SPACE
        #: What an ordinary kept event stands for; infinite at rate 0, where none is kept.
        self.weight = 1.0 / self.probability if count else float("inf")

    def keep(self, request_id: str) -> bool:
        """Whether an ordinary event with this id is kept. About half a microsecond."""
        if self._all:
            return True
        digest = _BASE.copy()
        digest.update(request_id.encode("utf-8", "surrogatepass"))
        return digest.digest() < self._threshold

    def weigh(self, request_id: str, status: str) -> float:
        """The sampling weight of an event, or 0.0 when it is not kept."""
        if status in self.always_keep:
            return 1.0
        return self.weight if self.keep(request_id) else 0.0
