"""Tokens per second of SFT with few and with many tuples an update, on one and on several GPUs.

    PYTHONPATH=self-revision-training python self-revision-training/benchmarks/sft_updates.py \
        model=Qwen/Qwen2.5-Coder-1.5B-Instruct tuples=4,32 processes=1,2 json=updates.json

Every variant trains the same weights on the same random tuples in the same order, `rounds` times the largest of
`tuples` after one such round of warm-up, with the trainer, packing and optimizer of sft.sh. Lengths are log-normal
with the given `median` and `sigma` (of the logarithm), at most `max_length`: by default some 6 000 tokens, as two
long responses have. tokens/s counts them without padding, over all processes.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import TrainerCallback

from srt.common.models import load_tokenizer
from srt.common.name_values import read_name_values
from srt.common.packed_attention import choose_attention
from srt.common.parent_death import die_with_parent
from srt.config import load_config
from srt.contract.layout import TokenSequence
from srt.sft.batching import plan_packed
from srt.sft.config import SftConfig
from srt.sft.launch import FSDP2, end_training_process
from srt.sft.trainer import PassCollator, make_trainer, training_arguments
from srt.sft.weights import new_model


@dataclass(frozen=True)
class Options:
    model: str
    tuples: str = "4,32"  # per update
    processes: str = "1,2"
    rounds: int = 4
    median: int = 6000  # tokens per tuple
    sigma: float = 0.5
    max_length: int = 32768
    max_tokens_per_pass: int = 16384
    json: str = ""  # file for the measurements

    @property
    def sizes(self) -> list[int]:
        return [int(size) for size in self.tuples.split(",")]


@dataclass(frozen=True)
class Measurement:
    """One variant; `passes`: those that are not skipped, per update and process."""

    processes: int
    tuples: int
    tokens: int
    seconds: float
    tokens_per_second: float
    passes: float
    peak_gib: float
    loss: float


class Timer(TrainerCallback):
    """Times the updates after the first `warmup`."""

    def __init__(self, warmup: int):
        self.warmup = warmup
        self.started = self.ended = 0.0

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step in (self.warmup, state.max_steps):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.ended = time.perf_counter()
            self.started = self.ended if state.global_step == self.warmup else self.started


def draw_sequences(options: Options, vocab: int) -> list[TokenSequence]:
    """The tuples of all rounds and of the warm-up; the first fifth of each is not supervised."""
    rng = np.random.default_rng(0)
    count = (options.rounds + 1) * max(options.sizes)
    lengths = options.median * np.exp(options.sigma * rng.standard_normal(count))
    lengths = np.clip(lengths.astype(int), 8, options.max_length)
    return [TokenSequence(rng.integers(0, vocab, length).tolist(), int(length) // 5) for length in lengths]


def work(options: Options, tuples: int, result: Path) -> None:
    """One variant, in each of its processes; rank 0 writes the measurement."""
    die_with_parent()
    processes, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if processes > 1:
        os.environ.update(FSDP2)
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    tokenizer = load_tokenizer(options.model)
    sequences = draw_sequences(options, len(tokenizer))
    lengths = [len(sequence.ids) for sequence in sequences]
    updates = [list(range(start, start + tuples)) for start in range(0, len(sequences), tuples)]
    plan = plan_packed(updates, lengths, options.max_tokens_per_pass, processes)
    config = load_config(SftConfig, "sft", [f"base_model={options.model}", "report_to=none"])
    warmup = max(options.sizes)  # tuples
    timer = Timer(warmup // tuples)
    attention = choose_attention("1")
    with tempfile.TemporaryDirectory() as folder:
        arguments = training_arguments(config, Path(folder), plan, 1e-6, False)
        arguments.save_strategy = "no"  # pyright: ignore[reportAttributeAccessIssue] - the Trainer's own default type
        trainer = make_trainer(
            new_model(options.model, config, attention.implementation),
            arguments,
            PassCollator(sequences, tokenizer.pad_token_id or 0, attention.packed),
            plan,
            None,
            tokenizer,
            [timer],
        )
        trainer.train()
    if rank == 0:
        seconds, tokens = timer.ended - timer.started, sum(lengths[warmup:])
        peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
        passes = plan.skipped.count(False) / processes / len(updates)
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        measured = Measurement(
            processes, tuples, tokens, seconds, tokens / seconds, passes, peak, float(np.mean(losses))
        )
        result.write_text(json.dumps(asdict(measured)), encoding="utf-8")
    end_training_process()


def measure(arguments: list[str], processes: int, tuples: int) -> Measurement:
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "measurement.json"
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        worker = [__file__, "worker", str(tuples), str(result), *arguments]
        command = [sys.executable, *(launcher if processes > 1 else []), *worker]
        environment = {"OMP_NUM_THREADS": "1"} | os.environ
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        return Measurement(**json.loads(result.read_text(encoding="utf-8")))


def table(rows: list[Measurement]) -> str:
    """With the tokens/s of each row relative to the largest update on as many processes."""
    lines = ["processes  tuples  passes   tokens/s  relative  peak GiB    loss"]
    for row in rows:
        largest = max(
            (other for other in rows if other.processes == row.processes), key=lambda other: other.tuples
        )
        relative = row.tokens_per_second / largest.tokens_per_second
        lines.append(
            f"{row.processes:>9}  {row.tuples:>6}  {row.passes:>6.1f}  {row.tokens_per_second:>9,.0f}  "
            f"{relative:>7.2f}x  {row.peak_gib:>8.1f}  {row.loss:.4f}"
        )
    return "\n".join(lines)


def read_options(arguments: list[str]) -> Options:
    options: Options = read_name_values(Options, arguments, __doc__)
    largest = max(options.sizes)
    if any(largest % size for size in options.sizes):
        raise SystemExit(
            f"tuples={options.tuples}: each must divide the largest, so that all train the same tuples"
        )
    return options


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["worker"]:
        work(read_options(arguments[3:]), int(arguments[1]), Path(arguments[2]))
        return
    options = read_options(arguments)
    rows = []
    for processes in map(int, options.processes.split(",")):
        for tuples in options.sizes:
            rows.append(measure(arguments, processes, tuples))
            print(f"{processes} process(es), {tuples} tuples: {rows[-1].seconds:.1f} s", flush=True)
            if options.json:
                text = json.dumps({"options": asdict(options), "rows": [asdict(row) for row in rows]}, indent=1)
                Path(options.json).write_text(text, encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
