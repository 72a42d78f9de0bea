"""Memory against events: it must be flat, with many series and a flood of labels.

    python benchmarks/memory.py [--events 3000000]

Runs the decoder, the engine and all monitors over Arrow records with commits, and prints the resident set
after every tenth of the way. 50 segments, windows of 60 s, one new model version for each million events.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec
import numpy as np
from pipeline import START, make_events

from mlmon.engine import Engine, EngineConfig, Intake, SeriesConfig
from mlmon.events.codecs import DecodeConfig, Decoder
from mlmon.events.encode import ARROW_CONTENT_TYPE, encode_arrow
from mlmon.events.record import LogRecord
from mlmon.monitors import MONITORS, build_monitors

PER_RECORD, RECORDS = 256, 32


def resident_mib() -> float:
    """The resident set of this process, MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def records(step: int) -> list[LogRecord]:
    """One gathered lot of events that follow those of the lot before."""
    count = PER_RECORD * RECORDS
    rng = np.random.default_rng(step)
    tenants = rng.integers(0, 80, count).tolist()
    events = [
        msgspec.structs.replace(
            event,
            event_time=event.event_time + step * count * 600,
            segments={"tenant": f"t{tenants[i]}"},
            model_version=f"v{step * count // 1_000_000}",
        )
        for i, event in enumerate(make_events(count, services=1))
    ]
    headers = [("content-type", ARROW_CONTENT_TYPE.encode())]
    return [
        LogRecord(
            i, START // 1000, None, encode_arrow(events[i * PER_RECORD : (i + 1) * PER_RECORD]), headers
        )
        for i in range(RECORDS)
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=3_000_000)
    total = parser.parse_args().events
    monitors = build_monitors({name: entry.config() for name, entry in MONITORS.items()})
    config = EngineConfig(series=SeriesConfig(segment_by=("tenant",), max_segments=50, expiry_seconds=600))
    engine = Engine(config, monitors, "bench")
    decoder = Decoder(DecodeConfig(), engine.fields)
    engine.assign("p", 0, {}, 0.0)
    steps = max(10, total // (PER_RECORD * RECORDS))
    print(f"{'events':>12} {'series':>8} {'open windows':>13} {'resident MiB':>13}")
    for step in range(steps):
        decoded = decoder.decode(records(step), START + 10**13)
        engine.process("p", Intake(step + 1, decoded.batch, RECORDS), 0.0)
        engine.changes(START, 0.0, {"p": 1})
        engine.committed()
        if step % (steps // 10) == 0:
            events = engine.partitions["p"].meta.events
            print(f"{events:>12,} {engine.series_count:>8} {engine.open_windows:>13} {resident_mib():>13.1f}")


if __name__ == "__main__":
    main()
