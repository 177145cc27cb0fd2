"""The training part of a step: the exact KL in our worker against stock NeMo-RL's distillation (top 64).

    NEMO_RL_DIR=... PYTHONPATH=self-revision-training:self-distillation \
        python self-distillation/benchmarks/against_stock.py model=path/to/model batch=32 response=1024

Same model, same random tokens, same GPUs, one after the other in one run, without rollouts (those would be alike):

- stock: NeMo-RL's teacher policy (onload, get_topk_logits, offload), then its student policy (train with
  DistillationLossFn, reverse KL); the teacher reads the student's rows, the only ones it can;
- exact, same rows: our worker's `distill` with those same rows for the teacher;
- exact, teacher rows: our worker's `distill` as Phase 2 calls it, the teacher reading chat + y + cue + y.

A step is measured from offloaded optimizer to finished update, as in a run, after `warmup` steps. Memory is
torch's peak on the fullest GPU. `micro_batch` rows make a pass in all three; `batch` must be a multiple of
`micro_batch` times `gpus`. Prints a table and, last, one line of JSON.
"""

import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from srt.common.name_values import read_name_values

STOCK_WORKER = "measured_worker.MeasuredWorker"


@dataclass(frozen=True)
class Options:
    model: str
    batch: int = 32  # rows of an update
    prompt: int = 128  # tokens
    response: int = 1024  # tokens
    micro_batch: int = 4  # rows of a pass
    topk: int = 64  # of stock
    steps: int = 3
    warmup: int = 1
    gpus: int = 1
    checkpointing: int = 1  # activation checkpointing
    only: str = "stock,exact"
    json: str = ""  # file to write the figures to


@dataclass(frozen=True)
class Measurement:
    name: str
    seconds: float  # of a step, median
    parts: dict[str, float]  # of the last one
    peak_gib: float
    tokens_per_second: float
    loss: float
    to_stock: float | None = None


def main(argv: list[str]) -> None:
    options = read_name_values(Options, argv, __doc__)

    from opsd.nemo_rl.driver import runtime
    from srt.common import ray_auth

    here = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    ray_auth.protect_own_cluster()
    runtime.prepare()
    rows = measure(options)
    stock = next((row for row in rows if row.name == "stock"), None)
    rows = [replace(row, to_stock=row.seconds / stock.seconds if stock else None) for row in rows]
    print(f"\n| {'training part of a step':<22} | seconds | to stock | tokens/s | peak GiB | loss |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        ratio = f"{row.to_stock:.2f}" if row.to_stock else "-"
        print(
            f"| {row.name:<22} | {row.seconds:.2f} | {ratio} | {row.tokens_per_second:.0f} | {row.peak_gib:.1f} | "
            f"{row.loss:.4f} |"
        )
    result = json.dumps({"options": asdict(options), "rows": [asdict(row) for row in rows]})
    if options.json:
        Path(options.json).write_text(result)
    print(result)


def measure(options: Options) -> list[Measurement]:
    import ray
    from nemo_rl.distributed.virtual_cluster import RayVirtualCluster
    from step_config import step_config

    from opsd.nemo_rl.driver import runtime
    from opsd.nemo_rl.driver.config import ClusterShape

    config = step_config(
        options.model,
        options.batch,
        lr=1e-6,
        gradient_checkpointing=options.checkpointing,
        max_total_sequence_length=options.prompt + options.response,
        worker_logs=0,
    )
    shape = ClusterShape(1, options.gpus, tensor_parallel=1, sampler_tensor_parallel=1)
    runtime.join_ray(config, options.gpus)
    cluster = RayVirtualCluster([options.gpus], num_gpus_per_node=options.gpus, max_colocated_worker_groups=2)
    rows = []
    if "stock" in options.only:
        rows.append(measure_stock(options, config, shape, cluster))
    if "exact" in options.only:
        rows += measure_exact(options, config, shape, cluster)
    ray.shutdown()
    return rows


def rows_of_tokens(options: Options, vocabulary: int) -> list[list[int]]:
    """prompt + response, the same for all."""
    draw = random.Random(0)
    return [
        [draw.randrange(vocabulary) for _ in range(options.prompt + options.response)]
        for _ in range(options.batch)
    ]


def timed_steps(
    options: Options, step: Callable[[], tuple[float, dict[str, float]]], before: Callable[[], None]
) -> tuple[list[float], float, dict[str, float]]:
    """Seconds of the measured steps, and loss and parts of the last one; `before` is not timed."""
    seconds = []
    for number in range(options.warmup + options.steps):
        before()
        started = time.monotonic()
        loss, parts = step()
        taken = time.monotonic() - started
        if number >= options.warmup:
            seconds.append(taken)
        print(f"  step {number}: {taken:.2f} s { ({name: round(value, 2) for name, value in parts.items()}) }")
    return seconds, loss, parts


def as_row(
    options: Options, name: str, measured: tuple[list[float], float, dict[str, float]], peak: int
) -> Measurement:
    seconds, loss, parts = measured
    median = statistics.median(seconds)
    return Measurement(name, median, parts, peak / 2**30, options.batch * options.response / median, loss)


def measure_stock(options: Options, config: Any, shape: Any, cluster: Any) -> Measurement:
    import torch
    from measured_worker import MeasuredWorker  # noqa: F401 - fails here, not in a worker
    from nemo_rl.algorithms.loss.loss_functions import DistillationLossFn
    from nemo_rl.distributed.batched_data_dict import BatchedDataDict
    from nemo_rl.distributed.ray_actor_environment_registry import ACTOR_ENVIRONMENT_REGISTRY
    from nemo_rl.models.policy.lm_policy import Policy

    from opsd.nemo_rl.driver.config import generation_config, policy_config
    from opsd.timing import record_spans, span
    from srt.common.models import load_tokenizer

    ACTOR_ENVIRONMENT_REGISTRY[STOCK_WORKER] = sys.executable
    tokenizer = load_tokenizer(options.model)
    width = options.prompt + options.response
    generation = generation_config(config, shape, width, [0], 0, 0.5)
    policy_section = policy_config(config, shape, generation, options.warmup + options.steps)
    policy_section |= {"train_micro_batch_size": options.micro_batch, "logprob_batch_size": options.micro_batch}
    policies = {}
    for name, trains in (("teacher", False), ("student", True)):
        policies[name] = Policy(
            cluster,
            policy_section,
            tokenizer,
            name_prefix=name,
            init_optimizer=trains,
            init_reference_model=False,
            worker_extension_cls_fqn=STOCK_WORKER,
        )
        policies[name].offload_after_refit()
    teacher, student = policies["teacher"], policies["student"]
    loss_fn = DistillationLossFn({"kl_type": "reverse", "mixed_kl_weight": 0.5, "zero_outside_topk": False})
    ids = torch.tensor(rows_of_tokens(options, tokenizer.vocab_size))
    mask = torch.zeros_like(ids)
    mask[:, options.prompt :] = 1
    peak = 0

    def before() -> None:
        student.offload_before_refit()
        for policy in policies.values():
            policy.run_all_workers_single_data("reset_peak_memory_stats")

    def step() -> tuple[float, dict[str, float]]:
        nonlocal peak
        data = BatchedDataDict(
            {
                "input_ids": ids,
                "input_lengths": torch.full((options.batch,), width),
                "token_mask": mask,
                "sample_mask": torch.ones(options.batch),
            }
        )
        with record_spans() as parts:
            with span("onload"):
                teacher.prepare_for_lp_inference()
            with span("teacher"):
                top = teacher.get_topk_logits(data, k=options.topk)
                data["teacher_topk_logits"], data["teacher_topk_indices"] = top["topk_logits"], top["topk_indices"]
            with span("onload"):
                teacher.offload_after_refit()
                student.prepare_for_training()
            with span("student"):
                result = student.train(data, loss_fn)
        peaks = [policy.run_all_workers_single_data("peak_memory") for policy in policies.values()]
        peak = max(peak, *(value for values in peaks for value in values))
        return float(result["loss"].sum()), parts

    measured = timed_steps(options, step, before)
    for policy in policies.values():
        policy.shutdown()
    return as_row(options, "stock", measured, peak)


def measure_exact(options: Options, config: Any, shape: Any, cluster: Any) -> list[Measurement]:
    from nemo_rl.models.policy.lm_policy import Policy

    from opsd.nemo_rl.driver.config import generation_config, policy_config
    from opsd.nemo_rl.driver.runtime import WORKERS
    from opsd.nemo_rl.driver.worker_group import make_updates
    from opsd.nemo_rl.micro_batches import PairIds, RankUpdate
    from opsd.timing import record_spans, span
    from srt.common.models import load_tokenizer
    from srt.contract.layout import TokenSequence

    tokenizer = load_tokenizer(options.model)
    generation = generation_config(config, shape, options.prompt + options.response, [0], 0, 0.5)
    policy_section = policy_config(config, shape, generation, 2 * (options.warmup + options.steps))
    policy = Policy(
        cluster, policy_section, tokenizer, name_prefix="exact", worker_extension_cls_fqn=WORKERS["dtensor"]
    )
    policy.offload_after_refit()
    cue = tokenizer.encode("\n\nWait, this response is wrong. Let me correct it.\n\n", add_special_tokens=False)
    rows = []
    for name, revises in (("exact, same rows", False), ("exact, teacher rows", True)):
        pairs = []
        for ids in rows_of_tokens(options, tokenizer.vocab_size):
            student = TokenSequence(ids, options.prompt)
            again = ids + cue + ids[options.prompt :]
            pairs.append(PairIds(student, TokenSequence(again, len(ids) + len(cue)) if revises else student))
        batches = [pairs[i : i + options.micro_batch] for i in range(0, len(pairs), options.micro_batch)]
        tokens = options.batch * options.response
        updates = [[RankUpdate(batches[rank :: options.gpus], tokens)] for rank in range(options.gpus)]
        peak = 0

        def step(updates: list[Any] = updates) -> tuple[float, dict[str, float]]:
            nonlocal peak
            with record_spans() as parts, span("onload"):
                policy.prepare_for_training()
            results = make_updates(policy, config, updates, pad_id=0)
            peak = max(peak, *(result.peak_memory for result in results))
            outputs = [output for result in results for output in result.updates[0].outputs]
            kl = sum(float(output.token_kl.sum()) for output in outputs)
            return kl / (options.batch * options.response), parts | results[0].seconds

        measured = timed_steps(options, step, policy.offload_before_refit)
        rows.append(as_row(options, name, measured, peak))
    policy.shutdown()
    return rows


if __name__ == "__main__":
    main(sys.argv[1:])
