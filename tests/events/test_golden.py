"""Files of every version of the contract read the same for ever: a change here breaks producers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mlmon.errors import DecodeReason

GOLDEN = Path(__file__).parents[1] / "golden" / "events"
INPUTS = sorted(path for path in GOLDEN.iterdir() if ".expected" not in path.name)


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: path.stem)
def test_golden(kit: Any, path: Path) -> None:
    expected = json.loads((GOLDEN / f"{path.stem}.expected.json").read_text())
    decoded = kit.decode(path.read_bytes())
    assert decoded.rejects == []
    assert kit.rows(decoded.batch) == (expected if isinstance(expected, list) else [expected])


def test_there_is_a_golden_file_of_every_version() -> None:
    assert {path.name.split("-")[0] for path in INPUTS} == {"v0", "v1"}


@pytest.mark.parametrize("name", ["v0-full", "v0-minimal"])
def test_old_versions_in_other_codecs(kit: Any, name: str) -> None:
    old = json.loads((GOLDEN / f"{name}.json").read_text())
    expected = json.loads((GOLDEN / f"{name}.expected.json").read_text())
    envelope = {"specversion": "1.0", "id": "x", "source": "y", "type": "z", "data": old}
    decoded = kit.decode(msgspec.msgpack.encode(old), msgspec.json.encode(envelope))
    assert decoded.rejects == []
    assert kit.rows(decoded.batch) == [expected, expected]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"timestamp_ms": "noon"}, DecodeReason.WRONG_TYPE),
        ({"timestamp_ms": 1e300}, DecodeReason.BAD_VALUE),
        ({"latency_ms": [1]}, DecodeReason.WRONG_TYPE),
        ({"sample_rate": 0}, DecodeReason.WRONG_TYPE),
        ({"sample_rate": 2}, DecodeReason.BAD_VALUE),
        ({"schema_version": 2}, DecodeReason.UNSUPPORTED_VERSION),
        ({"schema_version": -1}, DecodeReason.UNSUPPORTED_VERSION),
        ({"schema_version": "0"}, DecodeReason.WRONG_TYPE),
        ({"schema_version": True}, DecodeReason.WRONG_TYPE),
        ({"model": None}, DecodeReason.WRONG_TYPE),
    ],
)
def test_old_versions_with_faults(kit: Any, change: dict[str, Any], reason: DecodeReason) -> None:
    old = json.loads((GOLDEN / "v0-full.json").read_text()) | change
    for encode in (msgspec.json.encode, msgspec.msgpack.encode):
        decoded = kit.decode(encode(old))
        assert [(reject.row, reject.reason) for reject in decoded.rejects] == [(-1, reason)], decoded.rejects
