"""What a run of Phase 2 will take of this machine's memory; the arithmetic is in srt/common/memory_plan.py."""

import functools

import torch

from opsd.nemo_rl.driver.config import cluster_shape
from opsd.run import Run
from srt.common.machine import Machine
from srt.common.memory_plan import GIB, MemoryPlan, ModelShape, Terms, local_terms, make_plan, nemo_rl_terms
from srt.common.models import count_parameters, load_model_config
from srt.sampling.from_config import has_vllm

# Student tokens for each teacher token of a micro-batch: the teacher reads y twice, and both read the prompt once.
STUDENT_SHARE = 0.6
# Of a GPU, for a sampler whose share is not set: never more (vLLM's own default), never less, and what it leaves
# free: beside its share vLLM has CUDA graphs and buffers, and torch's pool has gaps. With 1.5 B parameters on an
# H200 these were 7 GiB; with 2 GiB left, it ran out of memory when it woke up after the first step.
LARGEST_SHARE, SMALLEST_SHARE = 0.9, 0.1
SAMPLER_RESERVE = 10 * GIB


def offloads(run: Run, machine: Machine) -> bool:
    """Whether ENGINE=local keeps in main memory what it does not use; OFFLOAD=auto decides by the memory plan."""
    config = run.config
    if config.offload != "auto":
        return config.offload == "1"
    return machine.gpus > 0 and not _local_plan(run, machine, False).fits


def sampler_share(run: Run, machine: Machine) -> float:
    """vLLM's share of a GPU's memory while it samples. `machine`: before the run has taken any of it."""
    if run.config.gpu_memory_utilization is not None or not machine.gpus:
        return run.config.gpu_memory_utilization or LARGEST_SHARE  # without a GPU it means nothing
    return memory_plan(run, machine).gpu["sampling"]["sampler"] / _gpu_total()


def memory_plan(run: Run, machine: Machine) -> MemoryPlan:
    """Of the engine that was selected, at the longest sequences that the run allows."""
    if run.config.engine == "nemo-rl":
        return _nemo_rl_plan(run, machine)
    return _local_plan(run, machine, offloads(run, machine))


def _local_plan(run: Run, machine: Machine, offload: bool) -> MemoryPlan:
    config, shape = run.config, _shape(run.config.student_model)
    with_vllm = bool(machine.gpus) and config.sampler != "transformers" and has_vllm()
    terms = local_terms(
        shape,
        student_tokens=_student_tokens(run),
        update_tokens=config.train_global_batch_size * run.max_total_tokens,
        checkpointing=config.gradient_checkpointing,
        trained=shape.adapters(config.lora_rank) if config.lora_rank else shape.parameters,
        separate_teacher=not config.lora_rank,
        offload=offload,
        all_vocab_entries=config.kl_grad_eps == 0,
        # The cache of transformers grows with the responses; vLLM takes its share at once.
        sampler_bytes=0,
    )
    if with_vllm:
        terms[0]["sampling"]["sampler"] = _sampler_bytes(run, machine, terms[0]["sampling"])
    changes = ["ENGINE=nemo-rl on several GPUs"] + ([] if offload else ["OFFLOAD=1"])
    changes += _common_changes(run) + ([] if config.lora_rank else ["LORA_RANK=32 LR=1e-4"])
    title = f"ENGINE=local{' with OFFLOAD=1' if offload else ''}"
    return make_plan(title, terms, machine, 1, changes)


def _nemo_rl_plan(run: Run, machine: Machine) -> MemoryPlan:
    config, shape = run.config, _shape(run.config.student_model)
    gpus = machine.gpus or torch.cuda.device_count()  # as NemoEngine counts them
    cluster = cluster_shape(config, gpus, load_model_config(config.student_model), shape.parameters)
    terms = nemo_rl_terms(
        shape,
        gpus=cluster.gpus,
        nodes=cluster.num_nodes,
        student_tokens=_student_tokens(run),
        step_tokens=config.num_prompts_per_step * run.max_total_tokens,
        checkpointing=config.gradient_checkpointing,
        all_vocab_entries=config.kl_grad_eps == 0,
        sampler_bytes=0,
        megatron_parallel=cluster.tensor_parallel if config.trainer_backend == "megatron" else None,
    )
    terms[0]["sampling"]["sampler"] = _sampler_bytes(run, machine, terms[0]["sampling"])
    changes = ["more GPUs (GPUS_PER_NODE, NUM_NODES)", *_common_changes(run)]
    return make_plan("ENGINE=nemo-rl", terms, machine, cluster.gpus_per_node, changes)


def _common_changes(run: Run) -> list[str]:
    config = run.config
    changes = ["a smaller TOKENS_PER_MICRO_BATCH, GPU_MEMORY_UTILIZATION or MAX_TOTAL_SEQUENCE_LENGTH"]
    changes += ["KL_GRAD_EPS=1e-4"] if config.kl_grad_eps == 0 else []
    return changes if config.gradient_checkpointing else ["GRADIENT_CHECKPOINTING=1", *changes]


def _student_tokens(run: Run) -> int:
    """Of a micro-batch. A pair that is longer than TOKENS_PER_MICRO_BATCH is one by itself."""
    return max(run.max_total_tokens, int(STUDENT_SHARE * run.config.tokens_per_micro_batch))


def _sampler_bytes(run: Run, machine: Machine, others: Terms) -> int:
    """vLLM's part of a GPU, which it takes at once: GPU_MEMORY_UTILIZATION of it, or what `others`, the terms of
    the sampling phase without it, leave free."""
    total = _gpu_total()
    if run.config.gpu_memory_utilization is not None:
        return int(run.config.gpu_memory_utilization * total)
    free = total if machine.gpu_bytes is None else machine.gpu_bytes
    left = free - sum(others.values()) - SAMPLER_RESERVE
    return int(min(max(left, SMALLEST_SHARE * total), LARGEST_SHARE * total))


def _gpu_total() -> int:
    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 0


@functools.cache
def _shape(model_path: str) -> ModelShape:
    config = load_model_config(model_path)
    return ModelShape.of(config, count_parameters(config))
