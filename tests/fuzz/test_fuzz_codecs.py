"""The fuzzer, briefly, in a process of its own: a crash of Arrow's would take this one along."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("fuzz_codecs.py")
SECONDS = 10


def run(code: list[str], where: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *code], cwd=where, capture_output=True, text=True, timeout=SECONDS * 12, check=False
    )


def test_mutated_records_in_a_process(tmp_path: Path) -> None:
    hide = (
        "import sys, runpy; sys.modules['atheris'] = None; "
        f"sys.argv = ['fuzz', '-max_total_time={SECONDS}']; "
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    )
    done = run(["-c", hide], tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    runs = int(done.stdout.split("installed; ")[1].split(" ")[0])
    assert runs > 100


def test_atheris_in_a_process(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason='not installed: run  pip install "mlmon[fuzz]"')
    # a process begins with the memory that its parent had at most, so only single allocations are bounded
    limits = ["-rss_limit_mb=0", "-malloc_limit_mb=256"]
    done = run([str(SCRIPT), f"-max_total_time={SECONDS}", "-max_len=8192", *limits], tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "Done " in done.stderr
