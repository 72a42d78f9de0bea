"""The model of `server_http.py` without a server, in a process of its own: what the device can do.

Reads one JSON line for each measurement from standard input, and writes one to standard output. Batches are
made as the server's scheduler makes them when enough waits: `model` brings them through the model and no
more; `tasks` begins with texts and ends with the bytes of the answers, in one thread, each text a request.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import torch
from _http_load import samples_of

from mlmon.server.app import budgets_of
from mlmon.server.config import BatchConfig
from mlmon.server.model import LoadConfig, load_model
from mlmon.server.work.fill_mask import FillMask, FillOptions
from mlmon.server.work.jobs import Job
from mlmon.server.work.lanes import LaneQueue
from mlmon.server.work.runner import Runner
from mlmon.server.work.task import Setting
from mlmon.server.work.text import Texts
from mlmon.server.work.windows import LongText

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _http_load import Sample

    from mlmon.server.work.lanes import Taken

_UNBOUNDED = 10**9


class Offline:
    """The model and the texts.

    Args:
        directory: of the model.
        device: as in `mlmon serve`.
        threads: of PyTorch, on a CPU.
        batch_tokens: None: what the server takes by itself.
    """

    def __init__(self, directory: Path, device: str, threads: int, batch_tokens: int | None) -> None:
        loaded = load_model(directory, LoadConfig(device=device))
        torch.set_num_threads(threads)
        self.info = loaded.info
        self._runner = Runner(loaded.encoder, loaded.head)
        budgets = budgets_of(BatchConfig(batch_tokens=batch_tokens), self.info.device, self.info.max_length)
        self._budget = budgets.batch_tokens
        texts = Texts(loaded.tokenizer, loaded.special, self.info.max_length)
        self._setting = Setting(texts, self.info.vocabulary_size, self._budget, _UNBOUNDED)
        self.samples = samples_of(directory)
        self._ready = list(self._batches([self._task(sample) for sample in self.samples]))
        for batch in self._ready[:2]:
            self._runner.begin([taken.piece for taken in batch]).land()

    def _task(self, sample: Sample) -> FillMask:
        texts = self._setting.texts.encode([sample.text], LongText())
        return FillMask(self._setting, texts, FillOptions())

    def _batches(self, tasks: list[FillMask]) -> Iterator[list[Taken]]:
        queue = LaneQueue(_UNBOUNDED, _UNBOUNDED)
        for task in tasks:
            queue.put(Job(task.pieces))
        while len(queue):
            yield queue.take(self._budget, whole=math.inf)

    def model(self, seconds: float) -> int:
        """Tokens that went through in so many seconds, and a little more."""
        done, flights = 0, deque()
        until = time.perf_counter() + seconds
        for batch in itertools.cycle(self._ready):
            flights.append((batch, self._runner.begin([taken.piece for taken in batch])))
            if len(flights) >= self._runner.depth:
                landed, flight = flights.popleft()
                flight.land()
                done += sum(taken.piece.tokens for taken in landed)
                if time.perf_counter() > until:
                    break
        return done

    def tasks(self, seconds: float) -> int:
        """The same, from text to answer."""
        done, at = 0, 0
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            tokens, chosen = 0, []
            while tokens < self._budget:
                chosen.append(self.samples[at % len(self.samples)])
                tokens += chosen[-1].tokens
                at += 1
            tasks = [self._task(sample) for sample in chosen]
            seen = self._runner.begin([task.pieces[0] for task in tasks]).land()
            for task, part in zip(tasks, seen, strict=True):
                msgspec.json.encode(task.answer(part)[0][0])
            done += tokens
        return done


def main() -> None:
    """Measure what each line of standard input asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-tokens", type=int)
    options = parser.parse_args()
    offline = Offline(options.model, options.device, options.threads, options.batch_tokens)
    lengths = sorted(sample.tokens for sample in offline.samples)
    told = {"device": offline.info.device, "dtype": offline.info.dtype, "name": offline.info.architecture}
    told |= {"parameters": offline.info.parameters, "mean_tokens": sum(lengths) / len(lengths)}
    told |= {"quantiles": [lengths[int(share * len(lengths))] for share in (0.05, 0.5, 0.95)]}
    print(json.dumps(told), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        begun, cpu = time.perf_counter(), time.process_time()
        tokens = getattr(offline, asked["what"])(asked["seconds"])
        took, cpu = time.perf_counter() - begun, time.process_time() - cpu
        print(json.dumps({"tokens": tokens, "seconds": took, "cpu": cpu}), flush=True)


if __name__ == "__main__":
    main()
