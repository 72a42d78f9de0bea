"""The packed encoder beside transformers on padded batches, with the same random weights, in one run.

    python benchmarks/server_packed.py [--size small base] [--sequences 96] [--repeats 3]
    python benchmarks/server_packed.py --device cuda [--tokens 65536] [--peak-tflops 790]

On the CPU, lengths are log-normal with a median of 24 tokens, at most 128, the arrivals of a service; one
thread, CPU seconds of the process, so that neighbours on the machine do not count. On CUDA, BERT-base in
bfloat16 at 128, at 512 and at mixed lengths; seconds of the clock over many batches in flight, copies to the
device and all work of the host included for the packed encoder, while transformers finds its padded batches
on the device already.

Four kinds of work: `encode`, hidden states of every token; `fill-mask`, one mask a sequence, the five best
tokens; `embed`, mean of the hidden states; `PLL`, each sequence once for each of its tokens with that token
masked, and its probability.

transformers runs three ways: padded to the longest of each batch in the order of arrival (of 32 sequences on
the CPU, of as many tokens as ours on CUDA); the same sorted by length, which a queue could do that may
wait; and, on the CPU, with logits everywhere, as its own classes make them. In the first two its head sees
the masks alone, which is kind to it. Every figure counts real tokens only; ways take turns, medians are told.

The bound is what the matrix products alone need at the peak that this GPU was seen to reach: 2 operations per
weight and token, 4 per pair of tokens and hidden unit in attention, and the head at the wanted rows.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from tokenizers import Tokenizer, models
from transformers import BertConfig, BertForMaskedLM

from mlmon.server.model import LoadConfig, Packed, load_model, pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from mlmon.server.model import LoadedModel

VOCABULARY, MASK = 30_522, 4
SIZES = {"mini": (4, 256, 4), "small": (4, 512, 8), "base": (12, 768, 12)}
BATCH, TOP = 32, 5
#: Sizes of batch whose latency is told with and without CUDA graphs.
GRAPHS = (32, 64, 128, 256, 512)


#: Ways to do something, by name.
Work: TypeAlias = "dict[str, Callable[[], Any]]"


# -- Models and texts ----------------------------------------------------------------------------------


def make_checkpoint(size: str, directory: Path, longest: int = 512) -> BertForMaskedLM:
    layers, hidden, heads = SIZES[size]
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        max_position_embeddings=longest,
    )
    model = BertForMaskedLM(config).eval()
    model.save_pretrained(directory)
    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": MASK}
    words |= {f"w{i}": i for i in range(5, VOCABULARY)}
    Tokenizer(models.WordLevel(words, unk_token=next(iter(words)))).save(str(directory / "tokenizer.json"))
    return model


def lengths_of_arrivals(n: int, rng: np.random.Generator, longest: int = 128) -> NDArray[np.int64]:
    """Log-normal, median 24."""
    return np.clip(np.rint(rng.lognormal(np.log(24), 0.7, n)), 4, longest).astype(np.int64)


def make_batch(lengths: NDArray[np.int64], rng: np.random.Generator) -> Packed:
    """One mask in each sequence, anywhere but at its ends."""
    batch = Packed.from_flat(rng.integers(5, VOCABULARY, lengths.sum()), lengths)
    batch.ids[batch.starts + 1 + rng.integers(0, lengths - 2)] = MASK
    return batch


def pll_batch(lengths: NDArray[np.int64], rng: np.random.Generator) -> tuple[Packed, NDArray[np.int64]]:
    """Each sequence once for each token between its ends, that token masked; and the true tokens."""
    source = Packed.from_flat(rng.integers(5, VOCABULARY, lengths.sum()), lengths)
    copies = np.repeat(np.arange(len(lengths)), lengths - 2)
    place = np.concatenate([np.arange(1, n - 1) for n in lengths])
    starts = np.cumsum(lengths[copies]) - lengths[copies]
    index = np.repeat(source.starts[copies] - starts, lengths[copies])
    ids = source.ids[index + np.arange(len(index))]
    true = ids[starts + place].copy()
    ids[starts + place] = MASK
    return Packed.from_flat(ids, lengths[copies]), true


@dataclass(frozen=True)
class Padded:
    """A batch as transformers takes it."""

    ids: torch.Tensor
    mask: torch.Tensor
    rows: torch.Tensor  # (n, 2): where masks are
    true: torch.Tensor | None


def pad(
    batch: Packed, device: str, true: NDArray[np.int64] | None = None, *, by_length: bool = False
) -> list[Padded]:
    at_once = BATCH if device == "cpu" else max(1, batch.tokens // batch.max_length)
    order = np.argsort(batch.lengths, kind="stable") if by_length else np.arange(batch.sequences)
    made = []
    for start in range(0, len(order), at_once):
        chosen = order[start : start + at_once]
        lengths = batch.lengths[chosen]
        inside = np.arange(lengths.max()) < lengths[:, None]
        ids = np.zeros(inside.shape, np.int64)
        ids[inside] = batch.ids[(batch.starts[chosen, None] + np.arange(lengths.max()))[inside]]
        rows = torch.from_numpy(np.argwhere(ids == MASK)).to(device)
        truth = None if true is None else torch.from_numpy(true[chosen]).to(device)
        made.append(
            Padded(torch.from_numpy(ids).to(device), torch.from_numpy(inside).to(device), rows, truth)
        )
    return made


# -- The work, ours and theirs --------------------------------------------------------------------------


def our_work(loaded: LoadedModel, batch: Packed, true: NDArray[np.int64] | None) -> Work:
    rows = np.flatnonzero(batch.ids == MASK)
    encoder, head = loaded.encoder, loaded.head
    if true is not None:
        return {"PLL": lambda: head.nll(encoder.encode(batch, rows), true)}
    return {
        "encode": lambda: encoder.encode(batch),
        "fill-mask": lambda: head.top_k(encoder.encode(batch, rows), TOP),
        "embed": lambda: pool(encoder.encode(batch), batch),
    }


def hidden_of(model: Any, part: Padded) -> torch.Tensor:
    hidden: torch.Tensor = model.bert(input_ids=part.ids, attention_mask=part.mask.long()).last_hidden_state
    return hidden


def logits_at_masks(model: Any, part: Padded, *, head_everywhere: bool) -> torch.Tensor:
    i, j = part.rows.unbind(1)
    if head_everywhere:
        logits = model(input_ids=part.ids, attention_mask=part.mask.long()).logits[i, j]
    else:
        logits = model.cls(hidden_of(model, part)[i, j])
    return logits.float()  # type: ignore[no-any-return]


def mean_of(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weights = mask[..., None].float()
    return F.normalize((hidden.float() * weights).sum(1) / weights.sum(1), dim=-1)


def their_work(model: Any, parts: list[Padded], *, head_everywhere: bool) -> Work:
    def fill_mask() -> Any:
        return [
            logits_at_masks(model, p, head_everywhere=head_everywhere).log_softmax(-1).topk(TOP)
            for p in parts
        ]

    def pll() -> Any:
        logits = [logits_at_masks(model, p, head_everywhere=head_everywhere) for p in parts]
        return [F.cross_entropy(z, p.true, reduction="none") for z, p in zip(logits, parts, strict=True)]

    if parts[0].true is not None:
        return {"PLL": pll}
    if head_everywhere:
        return {"fill-mask": fill_mask}
    return {
        "encode": lambda: [hidden_of(model, p) for p in parts],
        "fill-mask": fill_mask,
        "embed": lambda: [mean_of(hidden_of(model, p), p.mask) for p in parts],
    }


def check_agreement(loaded: LoadedModel, model: Any, batch: Packed, device: str) -> float:
    """The mean difference of hidden states over their mean size."""
    parts = pad(batch, device)
    with torch.inference_mode():
        theirs = torch.cat([hidden_of(model, p)[p.mask] for p in parts]).float()
        ours = loaded.encoder.encode(batch).float()
    return float((ours - theirs).abs().mean() / theirs.abs().mean())


# -- Measuring ------------------------------------------------------------------------------------------


def seconds(work: Callable[[], Any], device: str, times: int) -> float:
    """Of one call, over `times` in flight: CPU seconds of the process, or seconds of the clock on CUDA."""
    if device == "cpu":
        start = time.process_time()
        work()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(times):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / times


def take_turns(work: Work, device: str, repeats: int, times: int = 20) -> dict[str, list[float]]:
    """Seconds of each, in turns, so that what disturbs one disturbs all; a first round is not counted."""
    found: dict[str, list[float]] = {name: [] for name in work}
    with torch.inference_mode():
        for name, call in work.items():
            seconds(call, device, 3)
            print(f"  warm: {name}", file=sys.stderr)
        for _ in range(repeats):
            for name, call in work.items():
                found[name].append(seconds(call, device, times))
    return found


def flops_per_token(size: str, lengths: NDArray[np.int64], rows: int) -> float:
    """Operations of the matrix products, per real token."""
    layers, hidden, _ = SIZES[size]
    linear = 2 * layers * 12 * hidden**2
    attention = 4 * layers * hidden * float((lengths**2).sum() / lengths.sum())
    head = 2 * (hidden**2 + hidden * VOCABULARY) * rows / float(lengths.sum())
    return linear + attention + head


def ratio(ours: list[float], theirs: list[float]) -> float:
    """Median over the rounds; each is a ratio of neighbours in time."""
    return statistics.median(b / a for a, b in zip(ours, theirs, strict=True))


# -- The CPU ----------------------------------------------------------------------------------------------


def cpu_workloads(
    loaded: LoadedModel, model: Any, sequences: int, rng: np.random.Generator
) -> Iterator[tuple[str, Packed, Work]]:
    """For each kind of work: its batch, and the ways to do it."""
    arrivals = make_batch(lengths_of_arrivals(sequences, rng), rng)
    scored, true = pll_batch(lengths_of_arrivals(max(2, sequences // 16), rng), rng)
    for batch, truth in ((arrivals, None), (scored, true)):
        ours = our_work(loaded, batch, truth)
        arrived = their_work(model, pad(batch, "cpu", truth), head_everywhere=False)
        sorted_ = their_work(model, pad(batch, "cpu", truth, by_length=True), head_everywhere=False)
        whole = their_work(model, pad(batch, "cpu", truth), head_everywhere=True)
        for name, call in ours.items():
            ways = {"packed": call, "padded": arrived[name], "padded, sorted": sorted_[name]}
            if name in whole:
                ways["padded, whole head"] = whole[name]
            yield name, batch, ways


def run_cpu(size: str, sequences: int, repeats: int) -> None:
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        model: Any = make_checkpoint(size, Path(folder))
        loaded = load_model(folder, LoadConfig(device="cpu"))
    difference = check_agreement(loaded, model, make_batch(lengths_of_arrivals(16, rng), rng), "cpu")
    assert difference < 1e-4, f"the two do not compute the same: {difference}"
    print(f"\nBERT-{size}, float32, one thread; hidden states differ by {difference:.0e} of their size")
    print(f"{sequences} sequences; transformers takes {BATCH} at a time\n")
    print("| work | tokens | padded | sorted | packed, tokens/CPU-s | beside padded | sorted | whole head |")
    print("|---|---|---|---|---|---|---|---|")
    for name, batch, ways in cpu_workloads(loaded, model, sequences, rng):
        found = take_turns(ways, "cpu", repeats)
        rate = batch.tokens / statistics.median(found["packed"])
        area, sorted_area = (
            sum(part.ids.numel() for part in pad(batch, "cpu", by_length=how)) for how in (False, True)
        )
        cells = [
            f"{ratio(found['packed'], found[way]):.2f}x" if way in found else ""
            for way in ("padded", "padded, sorted", "padded, whole head")
        ]
        counts = f"{batch.tokens:,} | {area:,} | {sorted_area:,}"
        print(f"| {name} | {counts} | {rate:,.0f} | {' | '.join(cells)} |", flush=True)


# -- CUDA --------------------------------------------------------------------------------------------------


def cuda_batches(
    tokens: int, rng: np.random.Generator
) -> Iterator[tuple[str, Packed, NDArray[np.int64] | None]]:
    for length in (128, 512):
        yield f"s{length}", make_batch(np.full(tokens // length, length), rng), None
    mixed = lengths_of_arrivals(tokens // 24, rng, 512)
    yield "mixed", make_batch(mixed[np.cumsum(mixed) <= tokens], rng), None
    lengths = lengths_of_arrivals(tokens // 512, rng, 128)
    yield "mixed", *pll_batch(lengths[np.cumsum(lengths * (lengths - 2)) <= tokens], rng)


def run_cuda(tokens: int, repeats: int, peak: float) -> None:
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        model: Any = make_checkpoint("base", Path(folder))
        on = {"device": "cuda", "dtype": "bfloat16", "max_logit_bytes": 2 << 30}
        plain = load_model(folder, LoadConfig(**on))
        compiled = load_model(folder, LoadConfig(**on, compile=True))
        recorded = load_model(folder, LoadConfig(**on, graph_tokens=GRAPHS))
    model = model.to("cuda", torch.bfloat16)
    difference = check_agreement(plain, model, make_batch(lengths_of_arrivals(64, rng), rng), "cuda")
    assert difference < 0.05, f"the two do not compute the same: {difference}"
    print(f"\nBERT-base, bfloat16, {torch.cuda.get_device_name()}, PyTorch {torch.__version__}")
    print(f"hidden states differ by {difference:.1e} of their size; bound at {peak:.0f} TFLOP/s\n")
    print(
        "| batch | work | way | M tokens/s | share of the bound | beside padded |\n|---|---|---|---|---|---|"
    )
    for batch_name, batch, true in cuda_batches(tokens, rng):
        kinds = our_work(plain, batch, true)
        fast = our_work(compiled, batch, true)
        padded = their_work(model, pad(batch, "cuda", true), head_everywhere=False)
        ordered = their_work(model, pad(batch, "cuda", true, by_length=True), head_everywhere=False)
        for name, call in kinds.items():
            rows = batch.sequences if name in ("fill-mask", "PLL") else 0
            bound = peak * 1e12 / flops_per_token("base", batch.lengths, rows)
            ways = {"packed": call, "packed, compiled": fast[name], "padded": padded[name]}
            if batch_name == "mixed":
                ways["padded, sorted"] = ordered[name]
            found = take_turns(ways, "cuda", repeats)
            for way, times in found.items():
                rate = batch.tokens / statistics.median(times)
                beside = ratio(times, found["padded"])
                cells = f"{rate / 1e6:.2f} | {rate / bound:.0%} | {beside:.2f}x"
                print(f"| {batch_name} | {name} | {way} | {cells} |", flush=True)
    run_latency(plain, recorded, model, repeats)


def run_latency(plain: LoadedModel, recorded: LoadedModel, model: Any, repeats: int) -> None:
    """One small batch at a time, the answer on the host before the next one goes: fill-mask."""
    rng = np.random.default_rng(2)
    print("\n| tokens | packed, ms | with graphs, ms | transformers, ms |\n|---|---|---|---|")
    for tokens in GRAPHS:
        batch = make_batch(np.full(max(1, tokens // 32), min(tokens, 32)), rng)
        rows, parts = np.flatnonzero(batch.ids == MASK), pad(batch, "cuda")

        def ours(loaded: LoadedModel, batch: Packed = batch, rows: NDArray[np.int64] = rows) -> Any:
            return loaded.head.top_k(loaded.encoder.encode(batch, rows), TOP).cpu()

        def theirs(parts: list[Padded] = parts) -> Any:
            return logits_at_masks(model, parts[0], head_everywhere=False).log_softmax(-1).topk(TOP)[1].cpu()

        found = take_turns(
            {"plain": lambda: ours(plain), "graphs": lambda: ours(recorded), "theirs": theirs},
            "cuda",
            repeats,
        )
        cells = " | ".join(f"{1e3 * statistics.median(times):.2f}" for times in found.values())
        print(f"| {tokens} | {cells} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--size", nargs="+", choices=SIZES, default=["small", "base"])
    parser.add_argument("--sequences", type=int, default=96, help="on the CPU")
    parser.add_argument("--tokens", type=int, default=65_536, help="of a batch on CUDA")
    parser.add_argument(
        "--peak-tflops", type=float, default=790.0, help="what the GPU's matrix products reach"
    )
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.device == "cuda":
        if not torch.cuda.is_available():
            parser.error("--device cuda: PyTorch sees no GPU; leave it out to measure on the CPU")
        run_cuda(options.tokens, options.repeats, options.peak_tflops)
        return
    for size in options.size:
        run_cpu(size, options.sequences, options.repeats)


if __name__ == "__main__":
    main()
