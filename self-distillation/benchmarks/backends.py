r"""The training part of a step with Megatron and with the DTensor worker, on the same tokens in one run.

    NEMO_RL_DIR=... PYTHONPATH=self-revision-training:self-distillation \
        python self-distillation/benchmarks/backends.py model=path/to/model gpus=2 tensor_parallel=2

Each variant gets NeMo-RL's workers of its own on all GPUs, one after the other, without rollouts:

- dtensor: FSDP2 over all GPUs, fp32 weights under bf16 autocast, padded rows sorted by length;
- dtensor-packed: the same with PACKING=1;
- dtensor-tp: the same with `tensor_parallel`;
- te, local: TRAINER_BACKEND=megatron with MEGATRON_LAYERS=te or local, and with `tensor_parallel`,
  `pipeline_parallel` and `context_parallel`.

A step scores every response with the teacher, makes one update of all, and is measured from offloaded optimizer
to finished update, after `warmup` steps. Responses are random tokens of log-normal lengths (`median`, `sigma`),
cut at max_tokens with their prompt; median=0: all as long as that. teacher, student and update are seconds on
the slowest rank; tokens/s counts tokens of y; memory is torch's peak on the fullest GPU. KL and gradient norm
of the first step say whether all compute the same. random=1: random weights of the model's shape, of which only
config and tokenizer are read. Prints a table and, last, one line of JSON; a variant that fails is said to, and
does not end the others.
"""

import json
import math
import random
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from srt.common.name_values import read_name_values

VARIANTS = {  # settings of each
    "dtensor": {"trainer_backend": "dtensor"},
    "dtensor-packed": {"trainer_backend": "dtensor", "packing": 1},
    "dtensor-tp": {"trainer_backend": "dtensor"},
    "te": {"trainer_backend": "megatron", "megatron_layers": "te"},
    "local": {"trainer_backend": "megatron", "megatron_layers": "local"},
}
PARTS = ("teacher", "student", "update")


@dataclass(frozen=True)
class Options:
    model: str
    variants: str = "dtensor,dtensor-packed,dtensor-tp,te,local"
    gpus: int = 1
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    context_parallel: int = 1
    responses: int = 32  # of a step, all of them one update
    prompt: int = 128  # tokens
    median: int = 0  # of the lengths of y
    sigma: float = 0.8
    max_tokens: int = 2048  # prompt and y together
    tokens_per_micro_batch: int = 16384
    checkpointing: int = 1
    steps: int = 3  # that are timed
    warmup: int = 2  # the second is the first to move Adam's moments off the GPU, into memory pinned for them
    lr: float = 1e-6
    random: int = 0
    json: str = ""  # file to write the figures to


def main(arguments: list[str]) -> None:
    options = read_name_values(Options, arguments, __doc__)
    unknown = set(options.variants.split(",")) - set(VARIANTS)
    if unknown:
        raise SystemExit(f"error: variants={options.variants}: choose from {', '.join(VARIANTS)}")

    from opsd.nemo_rl.driver import runtime
    from srt.common import ray_auth

    ray_auth.protect_own_cluster()
    runtime.prepare()
    with tempfile.TemporaryDirectory() as folder:
        model = random_weights(options.model, Path(folder) / "model") if options.random else options.model
        rows = measure(options, model, Path(folder))
    print(table(rows))
    result = json.dumps({"options": asdict(options), "rows": rows})
    if options.json:
        Path(options.json).write_text(result)
    print(result)


def random_weights(like: str, folder: Path) -> str:
    """A bf16 checkpoint of the model's shape."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from srt.common.models import default_device

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(like)
    with default_device():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(like).save_pretrained(folder)
    return str(folder)


def measure(options: Options, model: str, folder: Path) -> list[dict[str, Any]]:
    import ray
    from nemo_rl.distributed.virtual_cluster import RayVirtualCluster

    from opsd.nemo_rl.driver import runtime

    rows: list[dict[str, Any]] = []
    first = run_config(options, model, next(iter(options.variants.split(","))))
    runtime.prepare_megatron(folder)
    runtime.join_ray(first, options.gpus)
    for name in options.variants.split(","):
        cluster = RayVirtualCluster([options.gpus], num_gpus_per_node=options.gpus, max_colocated_worker_groups=2)
        try:
            rows.append(measure_variant(options, name, model, cluster))
        except Exception as error:  # of one variant: the others are measured
            rows.append({"variant": name, "failed": f"{type(error).__name__}: {str(error)[-600:]}"})
        finally:
            cluster.shutdown()  # with the workers of a variant that failed
        print(json.dumps(rows[-1]), flush=True)
        if options.json:
            Path(options.json).write_text(json.dumps({"options": asdict(options), "rows": rows}))
    ray.shutdown()
    return rows


def run_config(options: Options, model: str, variant: str) -> Any:
    from step_config import step_config

    settings = {
        "lr": options.lr,
        "tokens_per_micro_batch": options.tokens_per_micro_batch,
        "gradient_checkpointing": options.checkpointing,
        "max_total_sequence_length": options.max_tokens,
    }
    return step_config(model, options.responses, **settings | VARIANTS[variant])


def shape_of(options: Options, variant: str) -> Any:
    from opsd.nemo_rl.driver.config import ClusterShape

    if variant in ("dtensor", "dtensor-packed"):
        return ClusterShape(1, options.gpus, 1, 1)
    if variant == "dtensor-tp":
        return ClusterShape(1, options.gpus, options.tensor_parallel, 1)
    return ClusterShape(
        1, options.gpus, options.tensor_parallel, 1, options.pipeline_parallel, options.context_parallel
    )


def pairs_of(options: Options, tokens: int) -> list[Any]:
    """Random responses in the layout of a step: the teacher reads prompt + y + cue + y."""
    from opsd.nemo_rl.micro_batches import PairIds
    from srt.contract.layout import TokenSequence

    draw = random.Random(0)
    longest = options.max_tokens - options.prompt
    pairs = []
    for _ in range(options.responses):
        length = longest
        if options.median:
            length = min(longest, max(8, round(options.median * math.exp(options.sigma * draw.gauss(0, 1)))))
        prompt, y, cue = ([draw.randrange(tokens) for _ in range(n)] for n in (options.prompt, length, 16))
        start = len(prompt) + len(y) + len(cue)
        pairs.append(PairIds(TokenSequence(prompt + y, len(prompt)), TokenSequence(prompt + y + cue + y, start)))
    return pairs


def measure_variant(options: Options, variant: str, model: str, cluster: Any) -> dict[str, Any]:
    """`cluster`: NeMo-RL's, of all GPUs."""
    from nemo_rl.models.policy.lm_policy import Policy

    from opsd.nemo_rl.driver.config import generation_config, policy_config
    from opsd.nemo_rl.driver.lost_workers import end_workers
    from opsd.nemo_rl.driver.runtime import WORKERS
    from opsd.nemo_rl.driver.worker_group import make_updates
    from opsd.nemo_rl.micro_batches import RankUpdate, assign_micro_batches
    from srt.common.models import load_model_config, load_tokenizer

    config, shape = run_config(options, model, variant), shape_of(options, variant)
    tokenizer = load_tokenizer(model)
    pairs = pairs_of(options, min(tokenizer.vocab_size, len(tokenizer)))
    tokens = sum(len(pair.student.ids) - pair.student.start for pair in pairs)
    width = load_model_config(model).get_text_config().hidden_size
    packed = variant == "dtensor-packed"
    assigned = assign_micro_batches(pairs, shape.data_parallel, config.tokens_per_micro_batch, width, packed)
    updates = [[RankUpdate(batches, tokens)] for batches in assigned]
    generation = generation_config(config, shape, options.max_tokens, [0], 0, 0.5)
    policy = Policy(
        cluster,
        policy_config(config, shape, generation, options.warmup + options.steps),
        tokenizer,
        name_prefix=variant,
        worker_extension_cls_fqn=WORKERS[config.trainer_backend],
    )
    if packed:
        policy.run_all_workers_single_data("pack")
    policy.offload_after_refit()
    seconds, parts, peak, first = [], {}, 0, None
    for step in range(options.warmup + options.steps):
        policy.offload_before_refit()
        started = time.monotonic()
        policy.prepare_for_training()
        results = make_updates(policy, config, updates, pad_id=0)
        taken = time.monotonic() - started
        outputs = [output for result in results for output in result.updates[0].outputs if output]
        kl = sum(float(output.token_kl.sum()) for output in outputs) / tokens
        norm = results[0].updates[0].grad_norm
        first = first or {"kl": kl, "grad_norm": norm}
        if step >= options.warmup:
            seconds.append(taken)
            for part in PARTS:
                parts.setdefault(part, []).append(max(result.seconds.get(part, 0.0) for result in results))
            peak = max(peak, *(result.peak_memory for result in results))
        spent = ", ".join(f"{part} {seconds_of:.2f}" for part, seconds_of in results[0].seconds.items())
        print(f"  {variant} step {step}: {taken:.2f} s ({spent}), KL {kl:.4f}, norm {norm:.4f}", flush=True)
    end_workers(policy)
    median = statistics.median(seconds)
    return {
        "variant": variant,
        "seconds": median,
        **{part: statistics.median(parts[part]) for part in PARTS},
        "tokens_per_second": tokens / median,
        "peak_gib": peak / 2**30,
        **first,
        "shape": asdict(shape),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown; `to first`: the first variant's training part (teacher, student and update) over this one's."""
    lines = [
        "",
        "| variant | step s | teacher | student | update | to first | tokens/s | peak GiB | KL | gradient norm |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    base = next((row for row in rows if "seconds" in row), None)
    for row in rows:
        if "failed" in row:
            lines.append(f"| {row['variant']} | failed: {row['failed'][:80]} |" + " |" * 8)
            continue
        trained, of_base = (sum(of[part] for part in PARTS) for of in (row, base))
        lines.append(
            f"| {row['variant']} | {row['seconds']:.2f} | {row['teacher']:.2f} | {row['student']:.2f} | "
            f"{row['update']:.2f} | {of_base / trained:.2f}x | {row['tokens_per_second']:.0f} | "
            f"{row['peak_gib']:.1f} | {row['kl']:.4f} | {row['grad_norm']:.4f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
