"""What HTTP leaves of the model's own speed, and what shadow work costs those who wait beside it.

    python benchmarks/server_http.py [--clients 256] [--per-request 1 8] [--seconds 1.5] [--rounds 3]
    python benchmarks/server_http.py --random bert-base --seconds 60 --rounds 1         on a CPU: slow
    python benchmarks/server_http.py --random bert-base --device cuda --seconds 10 --per-request 1 8 64

Three processes. `offline` has the model and no server: full batches, tokenized beforehand, as fast as the
device goes; and the same from texts to the bytes of the answers, in one thread. `mlmon serve` is the server
as it is. The clients write bytes over loopback and read them, each with one connection and one request at a
time. All is fill-mask: sentences of 4 to 60 words with one mask each, five answers.

Offline and the server's model have as many threads as `--threads` says. The server's Python and the clients
need cores too; where there are none to spare, the share of offline is lower than it would be. So CPU time is
told beside the clock's: the server's for a text, the offline model's as a share of that, and the clients' as
a share of one core; near 100 % they, not the server, would be what is measured.

The second table has the same clients with and without a shadow lane that is never empty, and a few clients
that leave the device half idle: those meet shadow batches that had begun before they came.

All ways take turns, so that what disturbs one disturbs all; `--others 0.3` repeats what was disturbed.
Figures are medians of the rounds; ratios are those of neighbours in time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _http_load import cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).resolve().parent
DEMO = HERE.parent / "mlmon" / "demo" / "model"
#: Layers, hidden size and heads of models with random weights.
RANDOM = {"bert-mini": (4, 256, 4), "bert-small": (4, 512, 8), "bert-base": (12, 768, 12)}
START_SECONDS = 120.0
#: How often something is measured that neighbours disturb.
ATTEMPTS = 20
#: Clients of the shadow lane, and their texts per request: their queue is never empty, and never full.
SHADOW = {"lane": "shadow", "clients": 64, "per_request": 8}


class Worker:
    """A process that answers a line of JSON with a line of JSON."""

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.process = self._process.pid
        self.first = self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._process.args!r} ended: {self._process.wait()}")
        told: dict[str, Any] = json.loads(line)
        return told

    def ask(self, **asked: Any) -> dict[str, Any]:
        """Have it measure something."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


def random_model(name: str, directory: Path) -> Path:
    """Random weights under the demo's tokenizer: as large and as fast as trained ones."""
    import shutil

    import torch
    from transformers import BertConfig, BertForMaskedLM

    layers, hidden, heads = RANDOM[name]
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=30_522,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
    )
    BertForMaskedLM(config).save_pretrained(directory)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO / file, directory / file)
    return directory


@contextlib.contextmanager
def serving(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, int]]:
    """`mlmon serve` until the block ends: its address and process id."""
    config, log = folder / "server.toml", folder / "server.log"
    tokens = f"[server.batch]\nbatch_tokens = {options.batch_tokens}\n" if options.batch_tokens else ""
    config.write_text(
        f'[server.loading]\ndevice = "{options.device}"\ncpu_threads = {options.threads}\n{tokens}'
    )
    command = [sys.executable, "-m", "mlmon.cli", "serve", "--model", str(options.model), "--port", "0"]
    command += ["--config", str(config)]
    if options.events:
        command += ["--events-spool", str(folder / "spool")]
    with log.open("w") as output:
        child = subprocess.Popen(command, stderr=output)
    try:
        until = time.monotonic() + START_SECONDS
        while (found := re.search(r"serving \S+ at (http://\S+)", log.read_text())) is None:
            if child.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"the server did not start:\n{log.read_text()}")
            time.sleep(0.1)
        wait_until_ready(found.group(1), until)
        yield found.group(1), child.pid
    finally:
        child.terminate()
        child.wait(60)


def wait_until_ready(url: str, until: float) -> None:
    import httpx

    while time.monotonic() < until:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health/ready").status_code == 200:
                return
        time.sleep(0.1)
    raise SystemExit(f"{url} is not ready after {START_SECONDS:g} s")


@dataclass(frozen=True)
class Figures:
    """One measurement; CPU in seconds for each thousand tokens."""

    rate: float  # tokens a second
    cpu: float
    p50: float = 0.0  # milliseconds
    p99: float = 0.0
    clients: float = 0.0  # of a core
    shadow: float = 0.0  # tokens a second
    refused: int = 0


def offline(worker: Worker, what: str, seconds: float) -> Figures:
    found = worker.ask(what=what, seconds=seconds)
    return Figures(found["tokens"] / found["seconds"], 1000 * found["cpu"] / found["tokens"])


def over_http(worker: Worker, server: int, seconds: float, groups: list[dict[str, Any]]) -> Figures:
    found = worker.ask(groups=groups, seconds=seconds, server=server)
    *others, ours = found["groups"]
    latencies = sorted(ours["latencies"])
    p50, p99 = (1000 * latencies[int(share * len(latencies))] for share in (0.5, 0.99))
    shadow = sum(group["tokens"] for group in others)
    return Figures(
        ours["tokens"] / found["seconds"],
        1000 * found["server_cpu"] / (ours["tokens"] + shadow),
        p50,
        p99,
        found["clients_cpu"],
        shadow / found["seconds"],
        ours["refused"],
    )


def machine_seconds() -> float:
    """CPU time of all processes of the machine since it started."""
    user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


class Neighbours:
    """How much of the machine other processes take.

    Args:
        own: processes that are not others.
        most: cores that they may take while something is measured.
    """

    def __init__(self, own: list[int], most: float) -> None:
        self._own, self._most = own, most
        self.seconds = self.cores = 0.0

    def _others(self) -> float:
        return machine_seconds() - sum(cpu_seconds(process) for process in self._own)

    def measured(self, way: Callable[[], Figures]) -> Figures:
        """What `way` measures when others let it; after many attempts, what it measures."""
        for _ in range(ATTEMPTS):
            begun, before = time.monotonic(), self._others()
            figures = way()
            took, others = time.monotonic() - begun, self._others() - before
            if others / took <= self._most:
                break
        self.seconds, self.cores = self.seconds + took, self.cores + others
        return figures


class Rounds:
    """Figures of each way, round by round."""

    def __init__(self, ways: dict[str, Callable[[], Figures]], count: int, neighbours: Neighbours) -> None:
        self._found: dict[str, list[Figures]] = {name: [] for name in ways}
        for number in range(count):
            for name, way in ways.items():
                self._found[name].append(neighbours.measured(way))
                print(f"  round {number + 1}: {name}", file=sys.stderr)

    def of(self, name: str, field: str) -> float:
        """The median."""
        return statistics.median(getattr(figures, field) for figures in self._found[name])

    def ratio(self, name: str, other: str, field: str) -> float:
        """The median of the rounds' ratios."""
        pairs = zip(self._found[name], self._found[other], strict=True)
        return statistics.median(getattr(a, field) / getattr(b, field) for a, b in pairs)


def interactive(clients: int, per_request: int) -> dict[str, Any]:
    return {"lane": "interactive", "clients": clients, "per_request": per_request}


def print_shares(rounds: Rounds, names: list[str], mean_tokens: float) -> None:
    print("| what | tokens/s | of offline | texts/s | p50 ms | p99 ms | CPU, µs/text | model's | clients |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in names:
        rate = rounds.of(name, "rate")
        cells = [f"{rate:,.0f}", f"{rounds.ratio(name, 'model', 'rate'):.0%}", f"{rate / mean_tokens:,.0f}"]
        served = rounds.of(name, "p50") > 0
        cells += [f"{rounds.of(name, field):,.0f}" if served else "" for field in ("p50", "p99")]
        cells += [f"{rounds.of(name, 'cpu') * mean_tokens * 1000:,.0f}"]
        cells += [f"{rounds.ratio('model', name, 'cpu'):.0%}"]
        cells += [f"{rounds.of(name, 'clients'):.0%}" if served else ""]
        print(f"| {NAMES.get(name, name)} | {' | '.join(cells)} |")


NAMES = {"model": "offline, the model alone", "tasks": "offline, texts to answers"}


def print_shadow(rounds: Rounds, pairs: list[tuple[str, str]]) -> None:
    print("| interactive clients | shadow lane | tokens/s | kept | p50 ms | | p99 ms | | shadow tokens/s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for alone, beside in pairs:
        for name, told in ((alone, "empty"), (beside, "full")):
            cells = [alone, told]
            for field in ("rate", "p50", "p99"):
                by = f"{rounds.ratio(name, alone, field):.2f}x" if name == beside else ""
                cells += [f"{rounds.of(name, field):,.0f}", by]
            print(f"| {' | '.join(cells)} | {rounds.of(name, 'shadow'):,.0f} |")


def run(options: argparse.Namespace, folder: Path) -> None:
    flags = ["--device", options.device, "--threads", str(options.threads)]
    flags += ["--batch-tokens", str(options.batch_tokens)] if options.batch_tokens else []
    alone = Worker(str(HERE / "_http_offline.py"), str(options.model), *flags)
    with serving(options, folder) as (url, server):
        crowd = Worker(str(HERE / "_http_load.py"), url, str(options.model))

        def asking(*groups: dict[str, Any]) -> Callable[[], Figures]:
            return lambda: over_http(crowd, server, options.seconds, list(groups))

        ways = {name: (lambda name=name: offline(alone, name, options.seconds)) for name in NAMES}
        http = {f"HTTP, {n} a request": asking(interactive(options.clients, n)) for n in options.per_request}
        pairs: list[tuple[str, str]] = []
        shadow: dict[str, Callable[[], Figures]] = {}
        for clients in (options.clients, options.few):
            pairs.append((f"{clients}", f"{clients} and shadow"))
            ours = interactive(clients, 1)
            shadow |= dict(zip(pairs[-1], (asking(ours), asking(SHADOW, ours)), strict=True))
        neighbours = Neighbours([os.getpid(), server, alone.process, crowd.process], options.others)
        rounds = Rounds(ways | http | shadow, options.rounds, neighbours)
        crowd.close()
    alone.close()
    told = alone.first
    low, middle, high = told["quantiles"]
    name = options.random or options.model.name
    print(
        f"{name}, {told['parameters'] / 1e6:.1f} M parameters, {told['dtype']} "
        f"on {told['device']}, {options.threads} thread(s), {os.cpu_count()} cores; texts of {middle} tokens "
        f"(5 to 95 %: {low} to {high}); {options.clients} clients\n"
    )
    print_shares(rounds, [*ways, *http], told["mean_tokens"])
    print()
    print_shadow(rounds, pairs)
    print(f"\nOther processes took {neighbours.cores / neighbours.seconds:.2f} cores meanwhile.")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=DEMO, help="directory of a model")
    parser.add_argument("--random", choices=RANDOM, help="random weights of this size instead")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch, offline and in the server")
    parser.add_argument("--batch-tokens", type=int)
    parser.add_argument("--clients", type=int, default=256)
    parser.add_argument("--few", type=int, default=8, help="clients that leave the device idle at times")
    parser.add_argument("--per-request", type=int, nargs="+", default=[1, 8], help="texts")
    parser.add_argument("--events", action="store_true", help="the server writes an event for each request")
    parser.add_argument("--seconds", type=float, default=1.5, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--others",
        type=float,
        default=1e9,
        help="measure again, some times at most, when other processes took more cores",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.random:
            (folder / "model").mkdir()
            options.model = random_model(options.random, folder / "model")
        run(options, folder)


if __name__ == "__main__":
    main()
