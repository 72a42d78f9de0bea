"""What the live demo deploys: the masked language model that ships, and another version of its weights.

The other version is what an export makes of the same weights when it keeps too few bits of them: every matrix
is rounded to a few levels between its largest values, one scale for all of it. Names, shapes, sizes of the
files, configuration and tokenizer stay: it loads without a warning, and answers as fast.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load_file, save_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BITS", "MODEL", "export_rounded", "rounded"]

#: The model that ships.
MODEL = Path(__file__).parent / "model"
_WEIGHTS = "model.safetensors"
#: Bits that the bad export keeps of a weight.
BITS = 4


def rounded(matrix: NDArray[np.float16], bits: int) -> NDArray[np.float16]:
    """Round to 2^bits - 1 levels, evenly between the largest magnitude and its negative.

    Example:
        >>> rounded(np.array([[-1.0, 0.2, 0.7]], np.float16), 2)
        array([[-1.,  0.,  1.]], dtype=float16)
    """
    steps = 2 ** (bits - 1) - 1
    scale = float(np.abs(matrix).max()) / steps or 1.0
    levels = np.round(matrix.astype(np.float32) / scale) * scale
    return levels.astype(np.float16)


def export_rounded(model: Path, to: Path, bits: int = BITS) -> None:
    """Write a model whose matrices keep so many bits of each weight; vectors and all other files stay.

    Args:
        model: directory of the right one.
        to: directory to make.
        bits: of a weight, 2 or more.
    """
    shutil.copytree(model, to)
    tensors = load_file(model / _WEIGHTS)
    wrong = {name: rounded(one, bits) if one.ndim == 2 else one for name, one in tensors.items()}
    save_file(wrong, to / _WEIGHTS, {"format": "pt"})
