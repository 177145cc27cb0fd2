"""SFT speed and memory, side by side on the same tuples and model, on one GPU.

    PYTHONPATH=self-revision-training python self-revision-training/benchmarks/sft.py \
        model=Qwen/Qwen2.5-Coder-1.5B-Instruct stage_file=train_data/p_stage1.json variants=trl,packed,packed+fsdp

- trl: SFTTrainer with TRL's own settings (padded batches of 8 in random order, SDPA, activation checkpointing,
  bf16 under fp32 weights), with as many batches an update as make `tuples`;
- packed[:TOKENS]: ours, with passes of at most TOKENS tokens (max_tokens_per_pass without it);
- padded[:TUPLES]: ours without packing, TUPLES (1) in a pass.
+fsdp: sharded, on one process (bf16 weights in the computation, fp32 ones in the optimizer); +liger: Liger's layer
kernels; +keep: without activation checkpointing. A variant that fails is a row with its error; `json` is written
after each variant.

Every variant trains `warmup` updates, then `updates` measured ones, of `tuples` tuples each, from the same
weights. tokens/s counts tokens that are no padding; peak is torch's allocator; MFU counts the products of the
forward and the backward pass (not what checkpointing computes again), with causal attention and the LM head on
supervised positions alone, against this card's own rate of bf16 products of 8192 x 8192 matrices, measured first.
"""

import gc
import json
import math
import os
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState
from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from srt.common.errors import UserError
from srt.common.models import load_model
from srt.config import load_config
from srt.contract.layout import TokenSequence
from srt.sft.batching import Plan, plan_packed, plan_padded, plan_updates
from srt.sft.config import SftConfig
from srt.sft.dataset import build_rows, load_stage
from srt.sft.launch import shard_alone
from srt.sft.packed_attention import choose_attention
from srt.sft.run import collection_of, layout_of_data
from srt.sft.trainer import PassCollator, make_trainer, new_model, training_arguments


@dataclass(frozen=True)
class Options:
    model: str
    stage_file: str
    stage: int = 1
    variants: str = "trl,packed"
    tuples: int = 32  # an update
    updates: int = 4
    warmup: int = 1
    max_tokens_per_pass: int = 16384
    max_length: int = 32768
    json: str = ""  # file to write the figures to


NAMES, EXTRAS = ("trl", "packed", "padded"), ("fsdp", "liger", "keep")


@dataclass
class Figures:
    """One variant's figures."""

    variant: str
    seconds: float
    tokens: int  # no padding
    tokens_per_second: float
    peak_gib: float
    mfu: float | None
    passes: int  # an update
    loss_first: float
    loss_last: float
    to_trl: float | None = None


@dataclass
class Failure:
    """A variant without figures."""

    variant: str
    error: str


class Clock(TrainerCallback):
    """Times the updates after the first `warmup`, with the device's work done."""

    def __init__(self, warmup: int):
        self.warmup = warmup
        self.started = self.ended = 0.0

    def on_step_end(self, args, state, control, **kwargs):
        _synchronize()
        self.ended = time.perf_counter()
        if state.global_step == self.warmup:
            self.started = self.ended


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def matrix_rate() -> float | None:
    """FLOP/s of bf16 products of 8192 x 8192 matrices on this card."""
    if not torch.cuda.is_available():
        return None
    size, repeats = 8192, 50
    one, other = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(10):
        one @ other
    _synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        one @ other
    _synchronize()
    return repeats * 2 * size**3 / (time.perf_counter() - started)


def products(model: Any, rows: list[TokenSequence]) -> float:
    """FLOPs of forward and backward of these rows: 6 for each weight and token, and causal attention."""
    model_config = model.model_config.get_text_config()
    head = model.get_output_embeddings().weight.numel()
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    layers = sum(p.numel() for p in model.parameters()) - (head if tied else 2 * head)
    width = model_config.num_attention_heads * (
        getattr(model_config, "head_dim", None) or model_config.hidden_size // model_config.num_attention_heads
    )
    total = 0.0
    for row in rows:
        length, supervised = len(row.ids), len(row.ids) - row.start
        total += 6 * (layers * length + head * supervised) + 6 * model_config.num_hidden_layers * width * length**2
    return total


class Bench:
    def __init__(self, options: Options):
        self.options = options
        path = Path(options.stage_file)
        self.layout, ids_fit = layout_of_data(options.model, None, path, collection_of(path))
        built = build_rows(load_stage(path), self.layout, options.stage, options.max_length, ids_fit)
        needed = options.tuples * (options.warmup + options.updates)
        if len(built.rows) < needed:
            raise UserError(f"{path} has {len(built.rows)} tuples; {needed} are needed: lower tuples or updates")
        # In a fixed order of chance, so that every update has tuples of all lengths.
        (order,) = plan_updates(len(built.rows), 1e-9, len(built.rows), seed=0)
        self.rows = [built.rows[index] for index in order[:needed]]
        self.lengths = [len(row.ids) for row in self.rows]
        size = options.tuples
        self.updates = [list(range(start, start + size)) for start in range(0, needed, size)]
        self.rate = matrix_rate()

    def run(self, variant: str) -> Figures:
        name, *extras = variant.split("+")
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        clock = Clock(self.options.warmup)
        with tempfile.TemporaryDirectory() as work:
            trainer, flops, passes = self._trainer(name, extras, Path(work), clock)
            trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        measured = self.lengths[self.options.warmup * self.options.tuples :]
        seconds = clock.ended - clock.started
        peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else math.nan
        trainer.accelerator.free_memory()
        rate = None if self.rate is None else flops / seconds / self.rate
        return Figures(
            variant, seconds, sum(measured), sum(measured) / seconds, peak, rate, passes, losses[0], losses[-1]
        )

    def _trainer(self, name: str, extras: list[str], work: Path, clock: Clock) -> tuple[SFTTrainer, float, int]:
        if "fsdp" in extras:
            shard_alone()
        measured = self.rows[self.options.warmup * self.options.tuples :]
        if name == "trl":
            torch.backends.cuda.enable_cudnn_sdp(True)  # torch's own setting
            arguments = SFTConfig(
                output_dir=str(work),
                max_length=None,
                gradient_accumulation_steps=self.options.tuples // 8,
                num_train_epochs=1,
                dataset_kwargs={"skip_prepare_dataset": True},
                **self._quiet(),
            )
            arguments._n_gpu = min(arguments.n_gpu, 1)  # not split over all that are visible
            model = load_model(self.options.model, "float32")
            torch.backends.cuda.enable_cudnn_sdp(True)
            entries = [{"input_ids": r.ids, "labels": [-100] * r.start + r.ids[r.start :]} for r in self.rows]
            trainer = SFTTrainer(
                model=model,
                args=arguments,
                train_dataset=Dataset.from_list(entries),
                processing_class=self.layout.tokenizer,
                callbacks=[clock],
            )
            return trainer, products(model, measured), arguments.gradient_accumulation_steps
        kind, _, size = name.partition(":")
        attention, packed, _ = choose_attention("1" if kind == "packed" else "0")
        plan = self._plan(packed, int(size or 0))
        config = load_config(SftConfig, "sft", [f"base_model={self.options.model}", "save_steps=1000000"])
        model = new_model(self.options.model, config, attention)
        flops = products(model, measured)
        arguments = training_arguments(config, work, plan, config.lr_stage1, False)
        for key, value in self._quiet().items():
            setattr(arguments, key, value)
        arguments.use_liger_kernel = "liger" in extras
        arguments.gradient_checkpointing = "keep" not in extras
        collator = PassCollator(self.rows, self.layout.tokenizer.pad_token_id or 0, packed)
        trainer = make_trainer(model, arguments, collator, plan, None, self.layout.tokenizer, [clock])
        return trainer, flops, plan.passes_per_update

    def _plan(self, packed: bool, size: int) -> Plan:
        if packed:
            return plan_packed(self.updates, self.lengths, size or self.options.max_tokens_per_pass, 1)
        return plan_padded(self.updates, self.lengths, size or 1, 1)

    def _quiet(self) -> dict[str, Any]:
        on_gpu = torch.cuda.is_available()
        return {"save_strategy": "no", "report_to": "none", "logging_steps": 1, "disable_tqdm": True} | (
            {} if on_gpu else {"bf16": False, "use_cpu": True}
        )


def _forget() -> None:
    """The next variant starts as in a new process."""
    gc.collect()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for name in list(os.environ):
        if name.startswith(("FSDP_", "ACCELERATE_")) or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            del os.environ[name]
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def check_variants(variants: list[str]) -> None:
    for variant in variants:
        name, *extras = variant.split("+")
        if name.partition(":")[0] not in NAMES or not set(extras) <= set(EXTRAS):
            raise UserError(f"variants: {variant!r} is none of {', '.join(NAMES)} with +{', +'.join(EXTRAS)}")


def table(rows: list[Figures | Failure]) -> str:
    lines = [
        "variant                    seconds   tokens/s  to trl  peak GiB    MFU  passes  loss",
        "-------------------------  -------  ---------  ------  --------  -----  ------  ----------------",
    ]
    for row in rows:
        if isinstance(row, Failure):
            lines.append(f"{row.variant:<25}  {row.error}")
            continue
        cells = [
            f"{row.variant:<25}",
            f"{row.seconds:>7.1f}",
            f"{row.tokens_per_second:>9,.0f}",
            f"{row.to_trl:>6.2f}" if row.to_trl else "     -",
            f"{row.peak_gib:>8.1f}",
            f"{row.mfu:>5.1%}" if row.mfu else "    -",
            f"{row.passes:>6}",
            f"{row.loss_first:.4f} -> {row.loss_last:.4f}",
        ]
        lines.append("  ".join(cells))
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    types = {field.name: field.type for field in fields(Options)}
    given = dict(argument.split("=", 1) for argument in arguments)
    options = Options(**{name: types[name](value) for name, value in given.items()})
    variants = options.variants.split(",")
    check_variants(variants)
    bench = Bench(options)
    rate = "no GPU" if bench.rate is None else f"{bench.rate / 1e12:.0f} TFLOP/s in bf16 products"
    ordered = sorted(bench.lengths)
    print(
        f"{options.model}, {len(bench.rows)} tuples of {ordered[0]} to {ordered[-1]} tokens, median "
        f"{ordered[len(ordered) // 2]}; {rate}",
        flush=True,
    )
    rows: list[Figures | Failure] = []
    try:
        for variant in variants:
            rows.append(measure(bench, variant))
            base = next((row for row in rows if isinstance(row, Figures) and row.variant == "trl"), None)
            for row in rows:
                if base and isinstance(row, Figures):
                    row.to_trl = row.tokens_per_second / base.tokens_per_second
            if options.json:
                result = {"options": asdict(options), "matrix_rate": bench.rate, "rows": [asdict(r) for r in rows]}
                Path(options.json).write_text(json.dumps(result, indent=1), encoding="utf-8")
            _forget()
    finally:
        print(f"\n{table(rows)}")


def measure(bench: Bench, variant: str) -> Figures | Failure:
    """One variant; whatever goes wrong in it must not take the others' figures with it."""
    try:
        figures = bench.run(variant)
    except Exception as error:
        traceback.print_exc()
        words = (str(error).splitlines() or [""])[0]
        return Failure(variant, f"{type(error).__name__}: {words}")
    print(f"{variant}: {figures.seconds:.1f} s", flush=True)
    return figures


if __name__ == "__main__":
    main(sys.argv[1:])
