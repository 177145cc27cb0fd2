"""Where a step of the local engine spends its time, and its training part beside TRL's, on the same tokens.

    PYTHONPATH=self-revision-training:self-distillation python self-distillation/benchmarks/engine.py \
        model=<SRT checkpoint> data=problems.jsonl json=engine.json

Each part runs in a process of its own, one after the other:

- step: `steps` whole steps of the engine after one to warm up; their responses are what the others train on;
- ours: opsd.local.optimizer_step.OptimizerStep: teacher and student forward, backward, update; rows by length;
- ours-columns: the same with KL_GRAD_EPS=1e-4;
- ours-plain: the same without gradient checkpointing;
- trl: DistillationTrainer with its chunked reverse KL, fed our two rows (its own teacher reads the student's row);
- sdft: SDFTTrainer, TRL's trainer whose teacher reads a context of its own, with the reverse KL of full logits.

Same responses, weights (fp32 under bf16 autocast; the frozen teacher in bf16, SDFT's in fp32, which cannot be
chosen), AdamW (fused), clipping, and one update of all responses. Both of TRL's get as many rows per forward
pass as our micro-batches have tokens, and pad to the longest response as they do by themselves.
samples=FILE takes the responses of an earlier run (`samples_to`), samples=MEDIAN,SIGMA random tokens with
log-normal lengths, cut at max_tokens; neither needs `data`. Peak memory is torch's. tokens/s counts tokens of y.
"""

import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from srt.common.name_values import read_name_values


@dataclass(frozen=True)
class Options:
    model: str
    data: str = ""
    samples: str = ""
    samples_to: str = ""  # file to keep the responses in
    parts: str = "step,ours,ours-columns,ours-plain,trl,sdft"
    prompts: int = 64  # responses of a step, all of them one update
    max_tokens: int = 1024  # x and y together
    steps: int = 3
    repeats: int = 3  # updates that are timed, after one to warm up
    tokens_per_micro_batch: int = 16384
    sampler: str = "auto"
    sampler_batch: int = 256
    memory: float = 0.4  # vLLM's share of the GPU
    lr: float = 1e-6
    json: str = ""  # file to write the figures to


def run_config(options: Options, output_dir: str, **more: Any) -> Any:
    from step_config import step_config

    settings = {
        "max_total_sequence_length": options.max_tokens,
        "tokens_per_micro_batch": options.tokens_per_micro_batch,
        "sampler": options.sampler,
        "sampler_batch": options.sampler_batch,
        "gpu_memory_utilization": options.memory,
        "max_num_steps": 1000,
        "lr": options.lr,
        "output_dir": output_dir,
    } | more
    return step_config(options.model, options.prompts, **settings)


def layout_of(model: str) -> Any:
    from srt.config_groups import PromptConfig
    from srt.contract.checkpoint import layout_of_checkpoint

    return layout_of_checkpoint(model, PromptConfig("math", None, None, None, None))


# The whole step -----------------------------------------------------------------------------------------


def step(options: Options, samples: Path) -> dict[str, Any]:
    from contextlib import closing

    from opsd.local.engine import LocalEngine
    from opsd.response_queue import ResponseQueue
    from opsd.run import Run
    from opsd.train import train_step
    from srt.common.files import JsonlLog
    from srt.problems import load_problems
    from srt.verifiers.math.grader import MathGrader

    with tempfile.TemporaryDirectory() as folder, MathGrader(2, time_limit_seconds=10) as grader:
        config = run_config(options, folder)
        run = Run(config, layout_of(options.model), load_problems(options.data), None, Path(folder))
        outputs, walls = [], []
        with (
            closing(LocalEngine(run, grader)) as engine,
            closing(JsonlLog(Path(folder, "set_aside.jsonl"))) as set_aside,
        ):
            responses = ResponseQueue(run, run.rollout_worker(grader, set_aside), 0)
            for index in range(1 + options.steps):
                started = time.monotonic()
                outputs.append(train_step(run, engine, responses, index))
                walls.append(time.monotonic() - started)
    pairs, figures = outputs[-1].pairs, [output.metrics() for output in outputs]
    write_samples(samples, [pair.rollout for pair in pairs])
    timed, walls = figures[1:], walls[1:]
    names = list(dict.fromkeys(name for line in timed for name in line["seconds"]))
    seconds = {name: statistics.mean(line["seconds"].get(name, 0) for line in timed) for name in names}
    wall = statistics.mean(walls)
    return {
        "seconds": wall,
        "shares": {name: value / wall for name, value in seconds.items()},
        "response_tokens": statistics.mean(line["response_tokens"] for line in timed),
        "reward": statistics.mean(line["reward"] for line in timed),
        "logprob_gap": statistics.mean(line["logprob_gap"] for line in timed),
        "tokens_per_second": statistics.mean(line["trained_tokens"] for line in timed) / wall,
    }


def write_samples(path: Path, rollouts: list) -> None:
    from srt.common.files import write_jsonl

    write_jsonl(path, [asdict(rollout) for rollout in rollouts])


def random_samples(options: Options, path: Path) -> None:
    """Random tokens after a real prompt, with log-normal lengths."""
    from opsd.rollouts import Rollout
    from srt.contract.records import Problem

    layout, draw = layout_of(options.model), random.Random(0)
    median, sigma = map(float, options.samples.split(","))
    problem = Problem("p", "How many positive divisors does 3600 have, and what is their sum?", "45")
    chat, tokens = layout.chat(problem.x), len(layout.tokenizer)
    rollouts = []
    for index in range(options.prompts):
        drawn = max(8, round(median * math.exp(sigma * draw.gauss(0, 1))))
        y = [draw.randrange(100, tokens - 100) for _ in range(min(drawn, options.max_tokens - len(chat)))]
        rollouts.append(Rollout(problem, chat, y, [-1.0] * len(y), "length", index % 2))
    write_samples(path, rollouts)


def read_pairs(options: Options, samples: Path) -> list:
    from opsd.pairs import build_pair
    from opsd.rollouts import Rollout
    from srt.common.files import read_jsonl
    from srt.contract.records import Problem

    layout = layout_of(options.model)
    rollouts = [Rollout(**(line | {"problem": Problem(**line["problem"])})) for line in read_jsonl(samples)]
    return [build_pair(rollout, layout, 2**20) for rollout in rollouts]


# The training part --------------------------------------------------------------------------------------


class Watch:
    """Seconds of each update and the peak memory of all but the first one."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def start(self) -> None:
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
            if len(self.seconds) == 1:
                torch.cuda.reset_peak_memory_stats()
        self.started = time.monotonic()

    def stop(self) -> None:
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.monotonic() - self.started)

    def figures(self, pairs: list, **more: Any) -> dict[str, Any]:
        import torch

        seconds = statistics.median(self.seconds[1:])
        peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
        tokens = sum(len(pair.targets) for pair in pairs)
        return {"seconds": seconds, "tokens_per_second": tokens / seconds, "peak_gib": peak, **more}


def ours(options: Options, samples: Path, **more: Any) -> dict[str, Any]:
    from opsd.local.optimizer_step import OptimizerStep
    from opsd.local.student import Student
    from opsd.local.teacher import open_teacher
    from opsd.metrics import TokenMetrics
    from opsd.timing import record_spans

    pairs = read_pairs(options, samples)
    config = run_config(options, "unused", **{"kl_grad_eps": 0} | more)
    student = Student(config, None)
    optimizer_step = OptimizerStep(config, student, open_teacher(config, student, None), 0, 1000, None)
    watch, kl, dropped = Watch(), [], []
    for _ in range(1 + options.repeats):
        watch.start()
        with record_spans() as seconds:
            result = optimizer_step.run(pairs)
        watch.stop()
        means = TokenMetrics(result.scored).means()
        kl.append(means["kl"])
        dropped.append(means.get("dropped_vocab_fraction", 0))
    shares = {name: value / sum(seconds.values()) for name, value in seconds.items()}
    return watch.figures(pairs, loss=kl, shares=shares, dropped_vocab_fraction=statistics.mean(dropped))


def padded(rows: list[list[int]], side: str) -> dict[str, Any]:
    """ids and mask, (B, L), with token 0 as padding."""
    import torch

    width = max(map(len, rows))
    ids, mask = (torch.zeros(len(rows), width, dtype=torch.long) for _ in range(2))
    for index, row in enumerate(rows):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[index, place] = torch.tensor(row)
        mask[index, place] = 1
    return {"ids": ids, "mask": mask}


def trl_setting(options: Options, pairs: list, folder: str) -> dict[str, Any]:
    """What both of TRL's trainers are given: their arguments, the dataset of places, a callback that times."""
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback

    from srt.common.models import load_model

    widest = max(len(pair.teacher.ids) for pair in pairs)
    rows = max(1, options.tokens_per_micro_batch // widest)
    while len(pairs) % rows:
        rows -= 1
    watch = Watch()

    class Timing(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            watch.start()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.stop()

    model = load_model(options.model, "float32")
    torch.backends.cuda.enable_cudnn_sdp(True)  # as TRL finds it
    on_gpu = torch.cuda.is_available()
    arguments = {
        "output_dir": folder,
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": len(pairs) // rows,
        "max_steps": 1 + options.repeats,
        "learning_rate": options.lr,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "adam_beta2": 0.95,
        "optim": "adamw_torch_fused" if on_gpu else "adamw_torch",
        "bf16": on_gpu,
        "use_cpu": not on_gpu,
        "gradient_checkpointing": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "temperature": 1.0,
    }
    places = [{"prompt": str(place), "privileged_context": ""} for place in range(len(pairs))]
    tokenizer = layout_of(options.model).tokenizer
    tokenizer.padding_side = "left"
    return {
        "model": model,
        "arguments": arguments,
        "watch": watch,
        "more": {
            "train_dataset": Dataset.from_list(places),
            "processing_class": tokenizer,
            "callbacks": [Timing()],
        },
    }


def trl_batch(pairs: list, inputs: list[dict], device: Any) -> dict[str, Any]:
    """Our rows as TRL lays them out: prompts padded on the left, responses on the right."""
    chosen = [pairs[int(line["prompt"])] for line in inputs]
    prompt = padded([pair.student.ids[: pair.student.start] for pair in chosen], "left")
    teacher = padded([pair.teacher.ids[: pair.teacher.start] for pair in chosen], "left")
    y = padded([pair.targets for pair in chosen], "right")
    batch = {
        "prompt_ids": prompt["ids"],
        "prompt_mask": prompt["mask"],
        "completion_ids": y["ids"],
        "completion_mask": y["mask"],
        "teacher_prompt_ids": teacher["ids"],
        "teacher_prompt_mask": teacher["mask"],
    }
    return {name: value.to(device) for name, value in batch.items()}


def with_y(inputs: dict, part: str) -> Any:
    import torch

    return torch.cat([inputs[f"teacher_prompt_{part}"], inputs[f"completion_{part}"]], dim=1)


def losses(trainer: Any) -> list[float]:
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def trl(options: Options, samples: Path) -> dict[str, Any]:
    from trl import DistillationConfig, DistillationTrainer

    from srt.common.models import load_model

    pairs = read_pairs(options, samples)

    class OnOurRows(DistillationTrainer):
        def _generate_and_score_completions(self, inputs: list[dict]) -> dict[str, Any]:
            batch = trl_batch(pairs, inputs, self.accelerator.device)
            return batch | {"num_items_in_batch": batch["completion_mask"].sum()}

        def _compute_loss(self, student: Any, inputs: dict, *rest: Any) -> Any:
            self.rows_of_teacher = with_y(inputs, "ids"), with_y(inputs, "mask")
            return super()._compute_loss(student, inputs, *rest)

        def _get_last_hidden_state(self, model: Any, ids: Any, mask: Any, *rest: Any, **more: Any) -> Any:
            if model is self.accelerator.unwrap_model(self.teacher_model):
                ids, mask = self.rows_of_teacher
            return super()._get_last_hidden_state(model, ids, mask, *rest, **more)

    with tempfile.TemporaryDirectory() as folder:
        setting = trl_setting(options, pairs, folder)
        trainer = OnOurRows(
            model=setting["model"],
            teacher_model=load_model(options.model).requires_grad_(False),
            args=DistillationConfig(**setting["arguments"], beta=1.0, max_completion_length=options.max_tokens),
            **setting["more"],
        )
        trainer.train()
    rows = setting["arguments"]["per_device_train_batch_size"]
    return setting["watch"].figures(pairs, loss=losses(trainer), rows=rows)


def sdft(options: Options, samples: Path) -> dict[str, Any]:
    from trl.experimental.sdft import SDFTConfig, SDFTTrainer

    pairs = read_pairs(options, samples)

    class OnOurRows(SDFTTrainer):
        def _prepare_training_batch(self, inputs: list[dict]) -> dict[str, Any]:
            batch = trl_batch(pairs, inputs, self.accelerator.device)
            batch |= {
                "teacher_input_ids": with_y(batch, "ids"),
                "teacher_attention_mask": with_y(batch, "mask"),
            }
            del batch["teacher_prompt_ids"], batch["teacher_prompt_mask"]
            return batch

    with tempfile.TemporaryDirectory() as folder:
        setting = trl_setting(options, pairs, folder)
        trainer = OnOurRows(
            model=setting["model"],
            args=SDFTConfig(
                **setting["arguments"],
                distillation_mode="full_logits",
                distillation_alpha=1.0,
                num_loss_tokens_to_skip=0,
                teacher_model_kind="base",
                num_generations=1,
                steps_per_generation=setting["arguments"]["gradient_accumulation_steps"],
                max_completion_length=options.max_tokens,
            ),
            **setting["more"],
        )
        trainer.train()
    rows = setting["arguments"]["per_device_train_batch_size"]
    return setting["watch"].figures(pairs, loss=losses(trainer), rows=rows)


PARTS = {
    "step": step,
    "ours": ours,
    "ours-columns": partial(ours, kl_grad_eps=1e-4),
    "ours-plain": partial(ours, gradient_checkpointing=0),
    "trl": trl,
    "sdft": sdft,
}


# All of it ----------------------------------------------------------------------------------------------


def in_a_process(part: str, options: Options, samples: Path, folder: Path) -> dict[str, Any] | None:
    """The part's figures; None when it failed, which is said and does not end the others."""
    result = folder / f"{part}.json"
    started = time.monotonic()
    command = [sys.executable, __file__, "part", part, str(samples), str(result), json.dumps(asdict(options))]
    code = subprocess.run(command).returncode
    print(f"{part}: {time.monotonic() - started:.0f} s with its start", flush=True)
    if code or not result.is_file():
        print(f"{part}: FAILED with exit code {code}", flush=True)
        return None
    return json.loads(result.read_text())


def print_tables(figures: dict[str, Any]) -> None:
    def shares_of(row: dict[str, Any]) -> str:
        return ", ".join(f"{name} {share:.1%}" for name, share in row["shares"].items())

    print(f"\n{figures['device']}, {figures['rows']}")
    if row := figures.get("step"):
        print(f"a step: {row['seconds']:.2f} s ({row['tokens_per_second']:.0f} tokens of y/s): {shares_of(row)}")
    base = figures.get("ours")
    print(f"\n{'training part':<14}{'s':>8}{'tokens/s':>10}{'GiB':>8}{'ours is':>10}  loss")
    for part, row in figures.items():
        if part in PARTS and part != "step" and row:
            peak = "-" if row["peak_gib"] is None else f"{row['peak_gib']:.1f}"
            ratio = f"{row['seconds'] / base['seconds']:.2f}x" if base else ""
            loss = ", ".join(f"{value:.4f}" for value in row["loss"])
            print(
                f"{part:<14}{row['seconds']:>8.2f}{row['tokens_per_second']:>10.0f}{peak:>8}{ratio:>10}  {loss}"
                + (f"  ({row['rows']} rows at a time)" if "rows" in row else f"  ({shares_of(row)})")
            )


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["part"]:  # one of our own processes
        part, samples, result, options = arguments[1:]
        figures = PARTS[part](Options(**json.loads(options)), Path(samples))
        Path(result).write_text(json.dumps(figures))
        return
    options = read_name_values(Options, arguments, __doc__)
    parts = [part for part in options.parts.split(",") if part != "step" or options.data]
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(options.samples_to or Path(folder) / "samples.jsonl")
        if Path(options.samples).is_file():
            samples = Path(options.samples)
            parts = [part for part in parts if part != "step"]
        elif options.samples:
            random_samples(options, samples)
        figures: dict[str, Any] = {"options": asdict(options)}
        for part in parts:
            figures[part] = in_a_process(part, options, samples, Path(folder))
            print(f"{part}: {json.dumps(figures[part])}", flush=True)
            write(figures, options)
        import torch

        figures["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        lengths = sorted(len(pair.targets) for pair in read_pairs(options, samples))
        spread = f"{lengths[0]} to {lengths[-1]} tokens, median {lengths[len(lengths) // 2]}"
        figures["rows"] = f"{len(lengths)} responses of {spread}"
    print_tables(figures)
    write(figures, options)


def write(figures: dict[str, Any], options: Options) -> None:
    """After every part: what was measured outlives a run that is stopped."""
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
