"""Which scope speaks for a series."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from baseline_kit import KEY, make_scope

from mlmon.baseline import Baseline
from mlmon.baseline.file import save_baseline
from mlmon.baseline.store import BaselineStore
from mlmon.errors import BaselineError

if TYPE_CHECKING:
    from pathlib import Path

    from mlmon.baseline import ScopeKey

OLD, NEW = KEY, KEY._replace(version="2")


def test_the_own_scope_speaks_first() -> None:
    old, new = make_scope(10), make_scope(20)
    store = BaselineStore([Baseline({OLD: old, NEW: new}, 0, "x")])
    for monitor in ("features", "tokenizer", "embeddings", "predictions"):
        assert store.find(OLD, monitor) == (OLD, old)
    assert store.parameters("features", OLD) is old.parameters["features"]
    assert store.parameters("predictions", OLD) is None


@pytest.mark.parametrize("newest", [OLD, NEW])
def test_for_an_unknown_version_the_input_falls_back_to_the_newest(newest: ScopeKey) -> None:
    scopes = {key: make_scope(20 if key == newest else 10) for key in (OLD, NEW)}
    store = BaselineStore([Baseline(scopes, 0, "x")])
    asked = KEY._replace(version="3")
    for monitor in ("features", "tokenizer"):
        assert store.find(asked, monitor) == (newest, scopes[newest])
    for monitor in ("embeddings", "predictions", "anything"):
        assert store.find(asked, monitor) is None
    assert store.parameters("features", asked) is scopes[newest].parameters["features"]
    assert store.parameters("embeddings", asked) is None


def test_no_fall_back_to_another_model_or_service() -> None:
    store = BaselineStore([Baseline({KEY: make_scope()}, 0, "x")])
    assert store.find(KEY._replace(model="ner"), "features") is None
    assert store.find(KEY._replace(service="bank"), "features") is None
    assert BaselineStore().find(KEY, "features") is None


def test_references_by_segment() -> None:
    scope = make_scope()
    store = BaselineStore([Baseline({KEY: scope}, 0, "x")])
    part = scope.segments["language=de"]
    assert store.segment(KEY, "language=de", "features") is part
    assert store.segment(KEY, "language=fr", "features") is None
    assert store.reference(KEY, "language=de", "features", "amount") is part.fields["features/amount"]
    assert store.reference(KEY, "", "features", "amount") is scope.segments[""].fields["features/amount"]
    assert store.reference(KEY, "", "features", "none") is None
    other = KEY._replace(version="9")
    assert store.reference(other, "", "features", "amount") is not None
    assert store.reference(other, "", "embeddings", "amount") is None


def test_of_two_baselines_the_newest_events_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    late = save_baseline(Baseline({KEY: make_scope(50)}, 1, "late"), str(tmp_path / "late"))
    early = save_baseline(Baseline({KEY: make_scope(40), NEW: make_scope(5)}, 2, "e"), str(tmp_path / "e"))
    paths = [str(tmp_path / "late"), str(tmp_path / "e")]
    for order in (paths, paths[::-1]):
        caplog.clear()
        store = BaselineStore.load(order)
        assert store.scopes[KEY].last_us == 50
        assert store.digest_of(KEY) == late.digest
        assert store.digest_of(NEW) == early.digest
        assert "two baselines" in caplog.text
        assert len(store.warnings) == 1


def test_pinned_digests(tmp_path: Path, baseline: Baseline) -> None:
    path = str(tmp_path / "b")
    digest = save_baseline(baseline, path).digest
    assert BaselineStore.load([path], {path: digest}).digest_of(KEY) == digest
    with pytest.raises(BaselineError, match="pinned"):
        BaselineStore.load([path], {path: digest[::-1]})
    with pytest.raises(KeyError):
        BaselineStore().digest_of(KEY)


def test_a_scope_only_in_one_baseline_warns_of_nothing(baseline: Baseline) -> None:
    other = dataclasses.replace(baseline, scopes={NEW: make_scope()})
    assert BaselineStore([baseline, other]).warnings == []
