from __future__ import annotations

import pytest

from mlmon.checkpoint.base import DeadLetter
from mlmon.checkpoint.letters import DeadLetterConfig, DeadLetterFile, read_letters
from mlmon.errors import CheckpointError, DecodeReason
from mlmon.events.record import Reject


@pytest.fixture
def make(tmp_path):
    made = []

    def build(state=None, **config):
        made.append(DeadLetterFile(DeadLetterConfig(str(tmp_path / "dlq"), **config)))
        made[-1].restore(state)
        return made[-1]

    yield build
    for one in made:
        one.close()


def letter(offset: int, payload: bytes = b"\x00\xff", detail: str = "why") -> DeadLetter:
    headers = [("content-type", b"x"), ("bad", b"\xff")]
    return DeadLetter("p-1", Reject(offset, 4, DecodeReason.MALFORMED, detail, payload, headers))


def kept(tmp_path):
    return [one.offset for one in read_letters(tmp_path / "dlq")]


def test_a_letter_comes_back_whole(make, tmp_path):
    make().append([letter(3)])
    (found,) = read_letters(tmp_path / "dlq")
    assert (found.partition, found.offset, found.row, found.reason) == ("p-1", 3, 4, "malformed")
    assert (found.detail, found.payload, found.payload_bytes) == ("why", b"\x00\xff", 2)
    assert found.headers == [("content-type", b"x"), ("bad", b"\xff")]
    assert found.received_us > 1_600_000_000_000_000


def test_only_its_owner_may_read_it(make, tmp_path):
    make().append([letter(3)])
    (path,) = (tmp_path / "dlq").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_large_payload_is_cut_and_its_size_kept(make, tmp_path):
    make(max_payload_bytes=10).append([letter(0, b"x" * 1000)])
    (found,) = read_letters(tmp_path / "dlq")
    assert (found.payload, found.payload_bytes) == (b"x" * 10, 1000)


def test_files_are_bounded_and_what_went_is_counted(make, tmp_path):
    letters = make(file_bytes=4096, max_bytes=20_000)
    removed = 0
    for step in range(200):
        letters.append([letter(step * 3 + n, b"y" * 100) for n in range(3)])
        removed += letters.trim()
        sizes = [path.stat().st_size for path in (tmp_path / "dlq").iterdir()]
        assert sum(sizes) <= 20_000
        assert max(sizes) <= 4096
    assert removed > 400
    assert letters.removed == removed
    assert kept(tmp_path) == list(range(removed, 600))


def test_more_letters_than_fit_at_once_keep_the_newest(make, tmp_path):
    letters = make(file_bytes=4096, max_bytes=16_384)
    letters.append([letter(n, b"y" * 100) for n in range(1000)])
    removed = letters.trim()
    assert kept(tmp_path) == list(range(removed, 1000))
    assert 0 < 1000 - removed < 70


def test_a_letter_larger_than_everything_is_kept_while_it_is_the_newest(make, tmp_path):
    letters = make(max_bytes=8192)
    for n in range(3):
        letters.append([letter(n, b"z" * 30_000)])
        letters.trim()
        assert kept(tmp_path) == [n]
    assert letters.removed == 2


def test_what_was_not_committed_is_cut_off_over_files(make, tmp_path):
    letters = make(file_bytes=4096)
    state = letters.append([letter(n, b"y" * 100) for n in range(20)])
    for more in (1, 5, 100):
        letters.append([letter(n, b"z" * 100) for n in range(20, 20 + more)])
        letters = make(state, file_bytes=4096)
        assert kept(tmp_path) == list(range(20))
    letters.append([letter(20)])
    assert kept(tmp_path) == list(range(21))


def test_a_half_written_line_is_cut_off(make, tmp_path):
    state = make().append([letter(0)])
    (path,) = (tmp_path / "dlq").iterdir()
    path.write_bytes(path.read_bytes() + b'{"partition": "p", "off')
    assert kept(tmp_path) == [0]  # readers pass it over
    make(state).append([letter(1)])
    assert kept(tmp_path) == [0, 1]


def test_letters_of_an_earlier_checkpoint_stay(make, tmp_path):
    make().append([letter(0), letter(1)])
    state = make(None)._state  # a new checkpoint file beside old letters
    assert state.length == 0
    make(None).append([letter(7)])
    make(state)
    assert kept(tmp_path) == [0, 1]


def test_letters_lost_by_a_power_failure_are_told(make, tmp_path, caplog):
    state = make().append([letter(0), letter(1)])
    (path,) = (tmp_path / "dlq").iterdir()
    path.write_bytes(path.read_bytes()[:50])
    again = make(state)
    assert "letters are lost" in caplog.text
    again.append([letter(2)])
    assert kept(tmp_path) == [2]


def test_a_user_who_cleans_up_while_it_runs_does_no_harm(make, tmp_path):
    letters = make()
    letters.append([letter(0)])
    for path in (tmp_path / "dlq").iterdir():
        path.unlink()
    state = letters.append([letter(1)])
    assert kept(tmp_path) == [1]
    make(state)
    assert kept(tmp_path) == [1]


def test_text_that_is_no_unicode_is_kept_readable(make, tmp_path):
    make().append([letter(0, detail="lone \udcff surrogate")])
    (found,) = read_letters(tmp_path / "dlq")
    assert found.detail == "lone ? surrogate"


def test_a_directory_that_cannot_be_made_is_named(make, tmp_path):
    (tmp_path / "dlq").write_text("")
    with pytest.raises(CheckpointError, match="dead letters cannot be written"):
        make()


def test_no_directory_reads_as_no_letters(tmp_path):
    assert list(read_letters(tmp_path / "none")) == []
