"""Models made once for all tests of this directory, and `server_kit` on the path."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
# small models are faster without a second thread, and much faster beside other tests
torch.set_num_threads(1)

from server_kit import KINDS, make  # noqa: E402 - the path is set above

if TYPE_CHECKING:
    from server_kit import Made

    from mlmon.server.model import LoadedModel


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """A saved model of each kind."""
    return {kind: make(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


@pytest.fixture(scope="session")
def bert(models: dict[str, Made]) -> LoadedModel:
    """One of them, loaded. It is used by one server at a time."""
    return models["bert"].load()
