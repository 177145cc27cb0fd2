"""The arm "stock" of whole_step.py: NeMo-RL's own distillation from the teacher's top 64 logits.

Its algorithm, `nemo_rl.algorithms.distillation`, with its recipe, examples/configs/distillation_math.yaml, but for
what is set below: the sizes, no checkpoints, no validation, the reverse KL, neither tensor nor context parallelism
(the models fit), and the DTensor worker V1, which our engine extends, too. Its teacher reads the student's
sequences, the only ones that it can.
"""

import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from step_common import LEARNING_RATE, Options, Step, prompts_in_order, run_config

POLICY_WORKER = "measured_worker.MeasuredWorker"
SAMPLER_WORKER = "stock_sampler_worker.StockSampler"
TASK = "math"
PARTS = {  # of NeMo-RL's timer, by the names that ours has
    "generation": "generation",
    "prepare_for_generation": "weight_sync",
    "teacher_logprob_inference_prep": "weight_sync",
    "training_prep": "weight_sync",
    "teacher_logprob_inference": "teacher",
    "policy_training": "student",
    "data_processing": "other",
}


class StepLog:
    """In the place of NeMo-RL's logger: keeps the times and lengths of each step."""

    def __init__(self, prompts: list[list[int]], per_step: int):
        self.steps: list[Step] = []
        self._prompts, self._per_step = [len(chat) for chat in prompts], per_step
        self._totals: list[int] = []

    def log_batched_dict_as_jsonl(self, data: dict[str, Any], name: str) -> None:
        self._totals = data["input_lengths"]

    def log_metrics(self, metrics: dict[str, Any], step: int, prefix: str = "", **_: Any) -> None:
        if prefix != "timing/train":
            return
        first = len(self.steps) * self._per_step
        prompts = self._prompts[first : first + self._per_step]
        lengths = [(prompt, total - prompt) for prompt, total in zip(prompts, self._totals, strict=True)]
        parts: dict[str, float] = {}
        for name, ours in PARTS.items():
            parts[ours] = parts.get(ours, 0.0) + metrics.get(name, 0.0)
        self.steps.append(Step(metrics["total_step_time"], lengths, parts))
        print(f"stock, step {step}: {metrics['total_step_time']:.2f} s", flush=True)

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None  # what else a logger may be asked


def measure(options: Options, gpus: int, knobs: dict[str, str]) -> dict[str, Any]:
    from opsd.nemo_rl.driver import runtime
    from srt.common import ray_auth

    started = time.monotonic()
    here = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    os.environ["NRL_SKIP_DISTILLATION_TOKENIZER_CHECK"] = "true"  # one model is both
    ray_auth.protect_own_cluster()  # before anything imports Ray
    import ray

    runtime.prepare()
    ours = run_config(options, "nemo-rl", "unused", options.steps, {})
    runtime.join_ray(ours, gpus, workers_per_gpu=3)  # student, teacher and sampler
    from nemo_rl.algorithms import distillation
    from nemo_rl.distributed.ray_actor_environment_registry import ACTOR_ENVIRONMENT_REGISTRY
    from nemo_rl.environments.utils import create_env
    from nemo_rl.models.generation.vllm import vllm_generation
    from nemo_rl.models.policy.lm_policy import Policy

    from srt.common.models import load_tokenizer

    ACTOR_ENVIRONMENT_REGISTRY |= {POLICY_WORKER: sys.executable, SAMPLER_WORKER: sys.executable}
    distillation.Policy = partial(Policy, worker_extension_cls_fqn=POLICY_WORKER)
    vllm_generation.resolve_generation_worker_cls = lambda default, config: SAMPLER_WORKER
    tokenizer = load_tokenizer(options.model)
    data = data_of(options)
    config = recipe(options, gpus, tokenizer, knobs)
    student, teacher, generation, _, loader, _, loss_fn, _, checkpointer, state, config = distillation.setup(
        config, tokenizer, data, None
    )
    start_seconds = time.monotonic() - started
    log = StepLog([item["message_log"][0]["token_ids"].tolist() for item in data], options.prompts)
    environment = create_env(runtime.ENVIRONMENT_NAME, {"grading": ours})
    for policy in (student, teacher):
        policy.run_all_workers_single_data("reset_peak_memory_stats")
    distillation.distillation_train(
        student,
        teacher,
        generation,
        loader,
        None,
        tokenizer,
        loss_fn,
        {TASK: environment},
        None,
        log,
        checkpointer,
        state,
        config,
    )
    peaks = [peak for policy in (student, teacher) for peak in policy.run_all_workers_single_data("peak_memory")]
    for part in (student, teacher, generation):
        part.shutdown()
    ray.shutdown()
    steps = [vars(step) | {"peak_gib": max(peaks) / 2**30} for step in log.steps[options.warmup :]]
    return {"start_seconds": start_seconds, "cue": -1, "steps": steps}


def data_of(options: Options) -> list[dict[str, Any]]:
    """The prompts of all steps in order, as NeMo-RL's data processors make them."""
    import torch

    return [
        {
            "message_log": [{"role": "user", "content": problem.x, "token_ids": torch.tensor(chat)}],
            "length": len(chat),
            "extra_env_info": {"problem": problem, "finish_reason": "length"},
            "loss_multiplier": 1.0,
            "idx": index,
            "task_name": TASK,
        }
        for index, (problem, chat) in enumerate(prompts_in_order(options))
    ]


def recipe(options: Options, gpus: int, tokenizer: Any, knobs: dict[str, str]) -> Any:
    """NeMo-RL's MasterConfig."""
    from nemo_rl.algorithms.distillation import MasterConfig
    from nemo_rl.models.generation import configure_generation_config
    from nemo_rl.utils.config import register_omegaconf_resolvers
    from omegaconf import OmegaConf

    from opsd.select_engine import nemo_rl_source

    source = nemo_rl_source()
    if source is None:
        sys.exit("NEMO_RL_DIR must name NeMo-RL's source, whose recipe this arm reads")
    register_omegaconf_resolvers()
    file = OmegaConf.load(source / "examples" / "configs" / "distillation_math.yaml")
    sizes = {
        "model_name": options.model,
        "train_global_batch_size": options.prompts,
        "generation_batch_size": options.prompts,
        "max_total_sequence_length": options.prompt_tokens + options.max_tokens,
        "make_sequence_length_divisible_by": 1,
        "dtensor_cfg": {"_v2": False, "tensor_parallel_size": 1, "context_parallel_size": 1},
        "dynamic_batching": {"train_mb_tokens": options.stock_tokens, "logprob_mb_tokens": options.stock_tokens},
    }
    changes = {
        "distillation": {
            "num_prompts_per_step": options.prompts,
            "max_num_steps": options.warmup + options.steps,
            "max_num_epochs": 1,
            "val_period": 0,
        },
        "loss_fn": {"kl_type": "reverse"},
        "checkpointing": {"enabled": False, "checkpoint_dir": "unused"},
        "policy": sizes
        | {
            "optimizer": {"kwargs": {"lr": LEARNING_RATE}},
            "generation": {"vllm_cfg": {"gpu_memory_utilization": options.stock_memory}},
        },
        "teacher": sizes,
        "data": {"shuffle": False},
        "logger": {
            "log_dir": tempfile.mkdtemp(),  # NeMo-RL creates the folder; nothing is written
            "wandb_enabled": False,
            "tensorboard_enabled": False,
            "monitor_gpus": False,
        },
        "cluster": {"gpus_per_node": gpus},
    }
    of_arm = OmegaConf.from_dotlist([f"{name}={value}" for name, value in knobs.items()])
    file = OmegaConf.merge(file, changes, of_arm)
    config = MasterConfig(**OmegaConf.to_container(file, resolve=True))
    generation = configure_generation_config(config.policy["generation"], tokenizer)
    generation["benchmark"] = vars(options)
    config.policy["generation"] = generation
    return config
