"""The arm "trl" of whole_step.py: TRL's DistillationTrainer with vLLM in its processes, one for each GPU.

Its defaults, with the reverse KL of the whole vocabulary (beta=1), gradient checkpointing, and as many rows a pass
as our micro-batches have tokens. Weights are fp32 under bf16 autocast, as ours are, replicated on each GPU; the
teacher, in bf16, reads the student's sequences.
"""

import json
import os
import tempfile
import time
from functools import partial
from typing import Any

from step_common import LEARNING_RATE, Options, Step, length_of, prompts_in_order

from opsd.timing import record_spans, span


def measure(options: Options, gpus: int, knobs: dict[str, str]) -> dict[str, Any] | None:
    """In a process of torchrun's for each GPU; None in all but the first."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # its weights are set through the engine in this process
    import torch
    from transformers import TrainerCallback

    from srt.common.models import load_model
    from srt.sampling.vllm_common import prepare_vllm

    started = time.monotonic()
    on_gpu = prepare_vllm()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    from datasets import Dataset
    from trl import DistillationConfig, DistillationTrainer
    from trl.generation import vllm_generation

    from srt.common.models import load_tokenizer

    if not on_gpu:  # where vLLM does not compile, and lays out its weights anew, so that TRL cannot load others
        vllm_generation.LLM = partial(vllm_generation.LLM, enforce_eager=True)
        vllm_generation.VLLMGeneration.sync_weights = lambda _: None
    chats = [chat for _, chat in prompts_in_order(options)]
    widest = options.prompt_tokens + options.max_tokens
    rows = max(1, options.tokens_per_micro_batch // widest)
    per_gpu = options.prompts // gpus
    while per_gpu % rows:
        rows -= 1
    steps: list[Step] = []
    lengths: list[tuple[int, int]] = []

    class OnOurPrompts(DistillationTrainer):
        def _tokenize_prompts(self, prompts: list) -> tuple:
            return [chats[int(prompt)] for prompt in prompts], None, {}

        def _generate_single_turn(self, prompt_ids: list, *rest: Any, **more: Any) -> list:
            with span("generation"):
                made = super()._generate_single_turn(prompt_ids, *rest, **more)
            lengths.extend((len(chat), len(y)) for chat, y in zip(prompt_ids, made, strict=True))
            return made

    class Timing(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            lengths.clear()
            if on_gpu:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            self.recording = record_spans(rest="student")  # and its teacher, which TRL calls in between
            self.parts, self.started = self.recording.__enter__(), time.monotonic()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if on_gpu:
                torch.cuda.synchronize()
            seconds = time.monotonic() - self.started
            self.recording.__exit__(None, None, None)
            peak = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None
            steps.append(Step(seconds, list(lengths), dict(self.parts), peak))

    with tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = {
            "output_dir": folder,
            "per_device_train_batch_size": rows,
            "gradient_accumulation_steps": per_gpu // rows,
            "max_steps": options.warmup + options.steps,
            "learning_rate": LEARNING_RATE,
            "lr_scheduler_type": "constant",
            "bf16": on_gpu,
            "use_cpu": not on_gpu,
            "gradient_checkpointing": True,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "beta": 1.0,
            "shuffle_dataset": False,
            "max_completion_length": options.max_tokens,
            "use_vllm": True,
            "vllm_gpu_memory_utilization": options.trl_memory,
            "vllm_max_model_length": widest,
        }
        tokenizer = load_tokenizer(options.model)
        tokenizer.padding_side = "left"
        trainer = OnOurPrompts(
            model=load_model(options.model, "float32"),
            teacher_model=load_model(options.model).requires_grad_(False),
            args=DistillationConfig(**settings | {name: json.loads(value) for name, value in knobs.items()}),
            train_dataset=Dataset.from_list([{"prompt": str(index)} for index in range(len(chats))]),
            processing_class=tokenizer,
            callbacks=[Timing()],
        )
        limit_responses(trainer.vllm_generation.llm, options)
        start_seconds = time.monotonic() - started
        trainer.train()
        trainer.accelerator.wait_for_everyone()
        gathered = gather(steps[options.warmup :], gpus)
    if not trainer.accelerator.is_main_process:
        return None
    return {"start_seconds": start_seconds, "cue": -1, "rows": rows, "steps": [vars(step) for step in gathered]}


def limit_responses(llm: Any, options: Options) -> None:
    """Each prompt with its own token limit, which no end of turn precedes: TRL asks vLLM with one for all."""
    generate = llm.generate

    def with_lengths(prompts: list[dict[str, Any]], sampling_params: Any, **more: Any) -> Any:
        each = [sampling_params.clone() for _ in prompts]
        for prompt, params in zip(prompts, each, strict=True):
            params.max_tokens = length_of(prompt["prompt_token_ids"], options)
            params.ignore_eos = True
        return generate(prompts, sampling_params=each, **more)

    llm.generate = with_lengths


def gather(steps: list[Step], gpus: int) -> list[Step]:
    """Each step of all processes: the lengths together, the longest time."""
    if gpus == 1:
        return steps
    import torch.distributed as dist

    of_all: list[Any] = [None] * gpus
    dist.all_gather_object(of_all, steps)
    together = []
    for parts in zip(*of_all, strict=True):
        slowest = max(parts, key=lambda step: step.seconds)
        lengths = [pair for step in parts for pair in step.lengths]
        peaks = [step.peak_gib for step in parts if step.peak_gib is not None]
        together.append(Step(slowest.seconds, lengths, slowest.parts, max(peaks, default=None)))
    return together
