"""Speed and memory of SFT variants on the same tuples and model, on one GPU.

    PYTHONPATH=self-revision-training python self-revision-training/benchmarks/sft.py \
        model=Qwen/Qwen2.5-Coder-1.5B-Instruct stage_file=train_data/p_stage1.json variants=trl,packed,packed+fsdp

- trl: SFTTrainer with TRL's defaults (padded batches of 8 in random order, SDPA, activation checkpointing, fp32
  weights with bf16 computation), accumulating as many batches as give `tuples` tuples per update;
- packed[:TOKENS]: this repository, with passes of at most TOKENS tokens (default: max_tokens_per_pass);
- padded[:TUPLES]: this repository without packing, with TUPLES tuples per pass (default: 1).
+fsdp: sharded, on one process (bf16 weights in the computation, fp32 ones in the optimizer); +liger: Liger's layer
kernels; +keep: without activation checkpointing. A variant that fails is listed with its error; `json` is written
after each variant.

Every variant starts from the same weights and trains `warmup` updates, then `updates` measured ones, of `tuples`
tuples each. tokens/s counts non-padding tokens; peak memory is that of torch's allocator. MFU counts the matrix
products of the forward and backward passes (without recomputation), with causal attention and the LM head on
supervised positions only, relative to the rate of bf16 products of 8192 x 8192 matrices measured on the same card.
"""

import gc
import json
import math
import os
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState
from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from srt.common.entry_point import run_entry_point
from srt.common.errors import UserError
from srt.common.models import load_model
from srt.common.name_values import read_name_values
from srt.config import load_config
from srt.contract.layout import TokenSequence
from srt.sft.batching import BatchPlan, plan_packed, plan_padded, plan_updates
from srt.sft.config import SftConfig
from srt.sft.dataset import build_sequences, load_stage
from srt.sft.launch import leave_process_group, shard_alone
from srt.sft.model_check import check_model
from srt.sft.plan import layout_for_data, read_collection_identity
from srt.sft.trainer import PassCollator, make_trainer, training_arguments
from srt.sft.weights import new_model


@dataclass(frozen=True)
class Options:
    model: str
    stage_file: str
    stage: int = 1
    variants: str = "trl,packed"
    tuples: int = 32  # per update
    updates: int = 4
    warmup: int = 1
    max_tokens_per_pass: int = 16384
    max_length: int = 32768
    json: str = ""  # file for the measurements


TRL_BATCH = 8  # its default
NAMES, EXTRAS = ("trl", "packed", "padded"), ("fsdp", "liger", "keep")


@dataclass
class Measurement:
    """One variant."""

    variant: str
    seconds: float
    tokens: int  # without padding
    tokens_per_second: float
    peak_gib: float
    mfu: float | None
    passes: int  # per update
    loss_first: float
    loss_last: float
    speed_up_vs_trl: float | None = None


@dataclass
class Failure:
    """A variant that could not be measured."""

    variant: str
    error: str


class Timer(TrainerCallback):
    """Times the updates after the first `warmup`, synchronizing with the device."""

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


def matmul_rate() -> float | None:
    """FLOP/s of bf16 products of 8192 x 8192 matrices on this card; None without one."""
    if not torch.cuda.is_available():
        return None
    size, repeats = 8192, 50
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(10):
        a @ b
    _synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        a @ b
    _synchronize()
    return repeats * 2 * size**3 / (time.perf_counter() - started)


def model_flops(model: Any, sequences: list[TokenSequence]) -> float:
    """FLOPs of the forward and backward pass: 6 per weight and token, plus causal attention."""
    model_config = model.config.get_text_config()
    head = model.get_output_embeddings().weight.numel()
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    layers = sum(p.numel() for p in model.parameters()) - (head if tied else 2 * head)
    width = model_config.num_attention_heads * (
        getattr(model_config, "head_dim", None) or model_config.hidden_size // model_config.num_attention_heads
    )
    total = 0.0
    for sequence in sequences:
        length, supervised = len(sequence.ids), len(sequence.ids) - sequence.start
        total += 6 * (layers * length + head * supervised) + 6 * model_config.num_hidden_layers * width * length**2
    return total


class Benchmark:
    """The tuples and updates that all variants share."""

    def __init__(self, options: Options):
        self.options = options
        path = Path(options.stage_file)
        self.layout, use_stored_ids = layout_for_data(options.model, None, path, read_collection_identity(path))
        records = load_stage(path)
        built = build_sequences(records, self.layout, options.stage, options.max_length, use_stored_ids)
        needed = options.tuples * (options.warmup + options.updates)
        if len(built.sequences) < needed:
            raise UserError(
                f"{path} has {len(built.sequences)} tuples, but {needed} are needed: lower `tuples` or `updates`"
            )
        # In a fixed random order, so that every update has tuples of all lengths.
        (order,) = plan_updates(len(built.sequences), 1e-9, len(built.sequences), seed=0)
        self.sequences = [built.sequences[index] for index in order[:needed]]
        self.lengths = [len(sequence.ids) for sequence in self.sequences]
        size = options.tuples
        self.updates = [list(range(start, start + size)) for start in range(0, needed, size)]
        self.matmul_rate = matmul_rate()

    def run(self, variant: str) -> Measurement:
        name, *extras = variant.split("+")
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        timer = Timer(self.options.warmup)
        with tempfile.TemporaryDirectory() as work:
            trainer, flops, passes = self._trainer(name, extras, Path(work), timer)
            trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        measured = self.lengths[self.options.warmup * self.options.tuples :]
        seconds = timer.ended - timer.started
        peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else math.nan
        trainer.accelerator.free_memory()
        rate = None if self.matmul_rate is None else flops / seconds / self.matmul_rate
        return Measurement(
            variant, seconds, sum(measured), sum(measured) / seconds, peak, rate, passes, losses[0], losses[-1]
        )

    def _trainer(self, name: str, extras: list[str], work: Path, timer: Timer) -> tuple[SFTTrainer, float, int]:
        if "fsdp" in extras:
            shard_alone()
        measured = self.sequences[self.options.warmup * self.options.tuples :]
        if name == "trl":
            torch.backends.cuda.enable_cudnn_sdp(True)  # torch's default
            arguments = SFTConfig(
                output_dir=str(work),
                max_length=None,
                gradient_accumulation_steps=self.options.tuples // TRL_BATCH,
                num_train_epochs=1,
                train_sampling_strategy="sequential",  # the order is random: timed are the tuples that are counted
                dataset_kwargs={"skip_prepare_dataset": True},
                **self._logging_arguments(),
            )
            arguments._n_gpu = min(arguments.n_gpu, 1)  # no DataParallel over all visible GPUs
            model = load_model(self.options.model, "float32")
            torch.backends.cuda.enable_cudnn_sdp(True)
            entries = [{"input_ids": s.ids, "labels": [-100] * s.start + s.ids[s.start :]} for s in self.sequences]
            trainer = SFTTrainer(
                model=model,
                args=arguments,
                train_dataset=Dataset.from_list(entries),
                processing_class=self.layout.tokenizer,
                callbacks=[timer],
            )
            return trainer, model_flops(model, measured), arguments.gradient_accumulation_steps
        kind, _, size = name.partition(":")
        config = load_config(SftConfig, "sft", [f"base_model={self.options.model}", "save_steps=1000000"])
        attention = check_model(replace(config, packing="1" if kind == "packed" else "0"), max(self.lengths))
        model = new_model(self.options.model, config, attention.implementation)
        plan = self._plan(attention.packed, int(size or 0))
        flops = model_flops(model, measured)
        arguments = training_arguments(config, work, plan, config.lr_stage1, False)
        for key, value in self._logging_arguments().items():
            setattr(arguments, key, value)
        arguments.use_liger_kernel = "liger" in extras
        arguments.gradient_checkpointing = "keep" not in extras
        collator = PassCollator(self.sequences, self.layout.tokenizer.pad_token_id or 0, attention.packed)
        trainer = make_trainer(model, arguments, collator, plan, None, self.layout.tokenizer, [timer])
        return trainer, flops, plan.passes_per_update

    def _plan(self, packed: bool, size: int) -> BatchPlan:
        if packed:
            return plan_packed(self.updates, self.lengths, size or self.options.max_tokens_per_pass, 1)
        return plan_padded(self.updates, self.lengths, size or 1, 1)

    def _logging_arguments(self) -> dict[str, Any]:
        on_gpu = torch.cuda.is_available()
        return {"save_strategy": "no", "report_to": "none", "logging_steps": 1, "disable_tqdm": True} | (
            {} if on_gpu else {"bf16": False, "use_cpu": True}
        )


def _reset() -> None:
    """Undo the process-wide state of a variant, so that the next one starts as in a new process."""
    gc.collect()
    leave_process_group()
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
            raise UserError(
                f"variants: {variant!r} is not one of {', '.join(NAMES)} with optional +{', +'.join(EXTRAS)}"
            )


def table(rows: list[Measurement | Failure]) -> str:
    lines = [
        "variant                    seconds   tokens/s  vs. TRL  peak GiB    MFU  passes  loss",
        "-------------------------  -------  ---------  -------  --------  -----  ------  ----------------",
    ]
    for row in rows:
        if isinstance(row, Failure):
            lines.append(f"{row.variant:<25}  {row.error}")
            continue
        cells = [
            f"{row.variant:<25}",
            f"{row.seconds:>7.1f}",
            f"{row.tokens_per_second:>9,.0f}",
            f"{row.speed_up_vs_trl:>6.2f}x" if row.speed_up_vs_trl else "      -",
            f"{row.peak_gib:>8.1f}",
            f"{row.mfu:>5.1%}" if row.mfu else "    -",
            f"{row.passes:>6}",
            f"{row.loss_first:.4f} -> {row.loss_last:.4f}",
        ]
        lines.append("  ".join(cells))
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    options: Options = read_name_values(Options, arguments, __doc__)
    variants = options.variants.split(",")
    check_variants(variants)
    if "trl" in variants and options.tuples % TRL_BATCH:
        raise UserError(f"tuples={options.tuples}: TRL's batches of {TRL_BATCH} must divide an update")
    benchmark = Benchmark(options)
    rate = (
        "no GPU"
        if benchmark.matmul_rate is None
        else f"{benchmark.matmul_rate / 1e12:.0f} TFLOP/s in bf16 products"
    )
    ordered = sorted(benchmark.lengths)
    print(
        f"{options.model}, {len(benchmark.sequences)} tuples of {ordered[0]} to {ordered[-1]} tokens, median "
        f"{ordered[len(ordered) // 2]}; {rate}",
        flush=True,
    )
    rows: list[Measurement | Failure] = []
    try:
        for variant in variants:
            rows.append(measure(benchmark, variant))
            base = next((row for row in rows if isinstance(row, Measurement) and row.variant == "trl"), None)
            for row in rows:
                if base and isinstance(row, Measurement):
                    row.speed_up_vs_trl = row.tokens_per_second / base.tokens_per_second
            if options.json:
                result = {
                    "options": asdict(options),
                    "matmul_rate": benchmark.matmul_rate,
                    "rows": [asdict(r) for r in rows],
                }
                Path(options.json).write_text(json.dumps(result, indent=1), encoding="utf-8")
            _reset()
    finally:
        print(f"\n{table(rows)}")


def measure(benchmark: Benchmark, variant: str) -> Measurement | Failure:
    """Measure one variant; an error in it must not lose the measurements of the others."""
    try:
        measurement = benchmark.run(variant)
    except Exception as error:
        traceback.print_exc()
        message = (str(error).splitlines() or [""])[0]
        return Failure(variant, f"{type(error).__name__}: {message}")
    print(f"{variant}: {measurement.seconds:.1f} s", flush=True)
    return measurement


if __name__ == "__main__":
    run_entry_point(main)
