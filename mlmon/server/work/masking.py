"""Which tokens of a text are masked, from a seed: equal for equal tokens, wherever the text is sent.

The draw depends on the seed, the repeat and the token ids alone, not on the texts beside it, the order of
requests or the server; so two servers with one tokenizer mask alike, and their figures can be compared pair
by pair. It uses PCG64's raw output, which NumPy keeps as it is over versions.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Masking", "Replacement", "mask_tokens"]

Replacement = Literal["bert", "mask"]


@dataclass(frozen=True, slots=True)
class Masking:
    """How a text is masked.

    Attributes:
        ratio: of the tokens that may be masked; rounded to the nearest number, and one at least.
        replacement: `mask`: each becomes the mask. `bert`: as in training BERT (Devlin et al. 2019), 80 %
            become the mask, 10 % a random token, 10 % stay what they are.
        seed: of the draw.
        repeats: independent draws.
    """

    ratio: float = 0.15
    replacement: Replacement = "bert"
    seed: int = 0
    repeats: int = 1


def mask_tokens(
    ids: NDArray[np.int64],
    allowed: NDArray[np.bool_],
    masking: Masking,
    repeat: int,
    vocabulary: tuple[int, NDArray[np.int64]],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Mask a text.

    Args:
        ids: its token ids, shape (n,).
        allowed: which of them may be masked, shape (n,).
        masking: how.
        repeat: which draw, from 0.
        vocabulary: the mask's id, and the ids that a random token is drawn from.

    Returns:
        The masked ids, shape (n,), and where they were masked, rising; nothing is where nothing may be.

    Example:
        >>> ids = np.arange(10, 30)
        >>> masked, where = mask_tokens(ids, np.ones(20, bool), Masking(replacement="mask"), 0, (4, ids))
        >>> len(where), masked[where].tolist(), bool(np.all(np.delete(masked == ids, where)))
        (3, [4, 4, 4], True)
    """
    mask, drawn_from = vocabulary
    places = np.flatnonzero(allowed)
    masked = ids.copy()
    if not len(places):
        return masked, places
    raw = _bits(ids, masking.seed, repeat).random_raw(3 * len(places)).reshape(3, -1)
    count = max(1, round(masking.ratio * len(places)))
    chosen = np.sort(np.argsort(raw[0], kind="stable")[:count])
    where = places[chosen]
    masked[where] = mask
    if masking.replacement == "bert":
        kind = raw[1][chosen] / 2.0**64
        drawn = drawn_from[(raw[2][chosen] % np.uint64(len(drawn_from))).astype(np.int64)]
        masked[where] = np.where(kind < 0.8, mask, np.where(kind < 0.9, drawn, ids[where]))
    return masked, where


def _bits(ids: NDArray[np.int64], seed: int, repeat: int) -> np.random.PCG64:
    digest = hashlib.blake2b(digest_size=16, person=b"mlmon-mask-v1")
    digest.update(seed.to_bytes(8, "little", signed=True))
    digest.update(repeat.to_bytes(8, "little"))
    digest.update(np.ascontiguousarray(ids, "<i8").tobytes())
    return np.random.PCG64(int.from_bytes(digest.digest(), "little"))
