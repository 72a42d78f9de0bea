"""Models made once for all tests of this directory, and `model_kit` on the path."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from model_kit import LENGTHS, Made, make_model, random_batch, save

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlmon.server.model import Packed


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """Makes a model of a kind once."""
    kept: dict[str, Made] = {}

    def make(kind: str) -> Made:
        if kind not in kept:
            found = Made(kind, tmp_path_factory.mktemp(kind), make_model(kind))
            save(found.model, found.directory, found.special)
            kept[kind] = found
        return kept[kind]

    return make


@pytest.fixture(scope="session")
def batch() -> Packed:
    """Sequences of `LENGTHS`, with segments."""
    return random_batch(LENGTHS)
