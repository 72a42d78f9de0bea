"""Train the demo model: a BERT of 2 million parameters, on one CPU core, in the minutes it is given.

    python train.py --work /tmp/demo-model --minutes 50 --lists /tmp/lists --out ../../mlmon/demo/model

Everything on the way lies in --work: the cut text, a checkpoint twice a minute, `progress.jsonl`. Started
again, it goes on from there. The text is read once, before the clock starts. A batch is a function of seed
and step; the learning rate is one of the time spent, so the same command gives a model as good, not the same
bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from corpus import docstrings, held_out, package_descriptions, without_repetition
from network import Bert, Shape
from pieces import SPECIAL, Pieces, cut, mask, train_tokenizer
from safetensors import safe_open
from safetensors.torch import save, save_file
from tokenizers import Tokenizer
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

if TYPE_CHECKING:
    from collections.abc import Iterator

PEAK_RATE = 2e-3
WARM_UP = 0.04
CHECKPOINT_SECONDS = 30.0
WATCH_SECONDS = 240.0


def main() -> None:
    """Parse the command line, train, write the model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", type=Path, required=True, help="directory of text cache, checkpoint and progress"
    )
    parser.add_argument("--out", type=Path, required=True, help="directory that the model is written to")
    parser.add_argument("--minutes", type=float, default=50.0, help="time to train, over all starts")
    parser.add_argument("--batch", type=int, default=1024, help="tokens in a batch")
    parser.add_argument("--lists", help="apt's list directory, where it is not the machine's own")
    parser.add_argument("--seed", type=int, default=20)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    shape = Shape()
    train, watch = read_text(args.work, args.lists, shape, args.seed)
    trainer = Trainer(args.work, shape, args.seed, args.minutes * 60)
    trainer.run(Batches(train, args.seed, args.batch), Batches(watch, args.seed + 1, 4096))
    write_model(trainer.model, shape, args.work, args.out)


def read_text(work: Path, lists: str | None, shape: Shape, seed: int) -> tuple[Pieces, Pieces]:
    """The pieces to train on and the held-out ones; read, tokenized and kept in `work` the first time."""
    cache = work / "pieces.npz"
    if not cache.exists():
        documents = without_repetition([*package_descriptions(lists), *docstrings()])
        print(
            f"{len(documents)} documents, {sum(len(p) for d in documents for p in d.paragraphs)} characters"
        )
        training = [d for d in documents if not held_out(d.origin)]
        tokenizer = train_tokenizer((p for d in training for p in d.paragraphs), shape.vocabulary)
        tokenizer.save(str(work / "tokenizer.json"))
        train = Pieces.of(cut(training, tokenizer, shape.positions, seed))
        watch = Pieces.of(cut([d for d in documents if held_out(d.origin)], tokenizer, shape.positions, seed))
        print(
            f"{len(train.ids)} tokens in {len(train.ends)} pieces, "
            f"held out {len(watch.ids)} in {len(watch.ends)}"
        )
        np.savez(cache, ids=train.ids, ends=train.ends, watch_ids=watch.ids, watch_ends=watch.ends)
    with np.load(cache) as arrays:
        return Pieces(arrays["ids"], arrays["ends"]), Pieces(arrays["watch_ids"], arrays["watch_ends"])


class Batches:
    """Batches of one length, a length as often as it has tokens; batch i depends on the seed and i alone."""

    def __init__(self, pieces: Pieces, seed: int, tokens: int) -> None:
        self._ids = pieces.ids
        self._starts = pieces.by_length()
        self._lengths = np.array(list(self._starts))
        shares = np.array([len(starts) * length for length, starts in self._starts.items()], float)
        self._shares = shares / shares.sum()
        self._seed = seed
        self._tokens = tokens

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(seen ids (n, L), asked (n, L), true ids of the asked (m,))."""
        rng = np.random.default_rng([self._seed, 2, step])
        length = int(rng.choice(self._lengths, p=self._shares))
        starts = rng.choice(self._starts[length], self._tokens // length)
        ids = self._ids[starts[:, None] + np.arange(length)].astype(np.int64)
        seen, asked = mask(ids, rng, Shape().vocabulary)
        return torch.from_numpy(seen), torch.from_numpy(asked), torch.from_numpy(ids[asked])


class Trainer:
    """The model, its optimizer, and how far it is.

    Args:
        work: directory of checkpoint and progress.
        shape: sizes of the model.
        seed: of batches.
        budget: seconds of training over all starts.
    """

    def __init__(self, work: Path, shape: Shape, seed: int, budget: float) -> None:
        self.model = Bert(shape)
        self._checkpoint = work / "checkpoint.safetensors"
        self._progress = work / "progress.jsonl"
        self._seed = seed
        self._budget = budget
        self._step = 0
        self._spent = 0.0
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        other = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.01}, {"params": other, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), eps=1e-6, fused=True)
        self._resume()

    def run(self, batches: Batches, watch: Batches) -> None:
        """Train until the budget is spent."""
        watched = [watch.batch(index) for index in range(16)]
        saved = noted = now = time.monotonic()
        losses: list[float] = []
        while self._spent < self._budget:
            losses.append(self._train(*batches.batch(self._step)))
            self._step += 1
            before, now = now, time.monotonic()
            self._spent += now - before
            if now - noted >= WATCH_SECONDS or self._spent >= self._budget:
                self._note(losses, watched)
                losses, noted = [], now
            if now - saved >= CHECKPOINT_SECONDS or self._spent >= self._budget:
                self._save()
                saved = now

    def _train(self, seen: torch.Tensor, asked: torch.Tensor, true: torch.Tensor) -> float:
        share = self._spent / self._budget
        rate = PEAK_RATE * max(0.0, min(share / WARM_UP, (1 - share) / (1 - WARM_UP)))
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        loss = F.cross_entropy(self.model.scores(self.model(seen)[asked]), true)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizer.step()
        return loss.item()

    @torch.inference_mode()
    def _note(
        self, losses: list[float], watched: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
    ) -> None:
        scores = [(self.model.scores(self.model(seen)[asked]), true) for seen, asked, true in watched]
        true = torch.cat([t for _, t in scores])
        nll = sum(F.cross_entropy(s, t, reduction="sum").item() for s, t in scores) / len(true)
        right = sum((s.argmax(-1) == t).sum().item() for s, t in scores) / len(true)
        note = {
            "step": self._step,
            "seconds": round(self._spent),
            "train_nll": round(float(np.mean(losses)), 4),
            "held_out_nll": round(nll, 4),
            "held_out_accuracy": round(right, 4),
        }
        with self._progress.open("a") as file:
            file.write(json.dumps(note) + "\n")
        print(note, flush=True)

    def _moments(self) -> Iterator[tuple[str, torch.nn.Parameter, str]]:
        for name, parameter in self.model.named_parameters():
            for moment in ("exp_avg", "exp_avg_sq", "step"):
                yield f"{moment}.{name}", parameter, moment

    def _save(self) -> None:
        state = self._optimizer.state
        tensors = {name: state[parameter][moment] for name, parameter, moment in self._moments()}
        tensors |= {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        metadata = {"step": str(self._step), "seconds": str(self._spent), "seed": str(self._seed)}
        new = self._checkpoint.with_suffix(".new")
        save_file(tensors, new, metadata)
        new.replace(self._checkpoint)

    def _resume(self) -> None:
        if not self._checkpoint.exists():
            return
        with safe_open(self._checkpoint, "pt") as file:
            metadata = file.metadata()
            if metadata["seed"] != str(self._seed):
                raise SystemExit(
                    f"{self._checkpoint} was made with --seed {metadata['seed']}, not {self._seed}: "
                    "give this seed, or another --work"
                )
            self._step, self._spent = int(metadata["step"]), float(metadata["seconds"])
            self.model.load_state_dict(
                {name: file.get_tensor(f"model.{name}") for name in self.model.state_dict()}
            )
            for name, parameter, moment in self._moments():
                self._optimizer.state[parameter][moment] = file.get_tensor(name)


def write_model(model: Bert, shape: Shape, work: Path, out: Path) -> None:
    """Write the weights in half precision, the configuration and the tokenizer; print their digests."""
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.to(torch.float16).contiguous() for name, tensor in model.state_dict().items()}
    (out / "model.safetensors").write_bytes(save(weights, {"format": "pt"}))
    (out / "config.json").write_text(json.dumps(shape.config(), indent=2) + "\n", encoding="utf-8")
    names = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL}
    settings = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "model_max_length": shape.positions,
        **names,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    Tokenizer.from_file(str(work / "tokenizer.json")).save(str(out / "tokenizer.json"))
    for name in ("model.safetensors", "tokenizer.json"):
        print(hashlib.sha256((out / name).read_bytes()).hexdigest(), name)


if __name__ == "__main__":
    main()
