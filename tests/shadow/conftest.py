"""`shadow_kit` and the server's kit on the path, and one small served model for all tests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "server"))
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from server_kit import configured, listening, make

from mlmon.server.app import build_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from server_kit import Made


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A tiny BERT with a trained tokenizer."""
    return make("bert", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def server_url(model: Made) -> Iterator[str]:
    """`mlmon serve`'s app with that model, on a port."""
    # lots come faster than a shadow lane of a busy CPU may want to take
    with listening(build_server(model.load(), configured())) as url:
        yield url
