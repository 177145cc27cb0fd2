"""What a run of Phase 2 will take of this machine's memory; the arithmetic is in srt/common/memory_plan.py."""

import bisect
import functools
from dataclasses import replace

import torch

from opsd.nemo_rl.driver.config import ClusterShape, cluster_shape
from opsd.run import Run
from opsd.select_engine import choose_megatron_layers
from srt.common.machine import Machine
from srt.common.memory_plan import GIB, MemoryPlan, ModelShape, Terms, local_terms, make_plan, nemo_rl_terms
from srt.common.models import count_parameters, load_model_config
from srt.common.sampler_memory import CACHE, WEIGHTS, describe_cache, share_terms
from srt.sampling.from_config import has_vllm

# Student tokens for each teacher token of a micro-batch: the teacher reads y twice, and both read the prompt once.
STUDENT_SHARE = 0.6
# Of a GPU, for a sampler whose share is not set: never more (vLLM's own default), never less, and what it leaves
# free: beside its share vLLM has CUDA graphs and buffers, and torch's pool has gaps. With 1.5 B parameters on an
# H200 these were 7 GiB; with 2 GiB left, it ran out of memory when it woke up after the first step.
LARGEST_SHARE, SMALLEST_SHARE = 0.9, 0.1
SAMPLER_RESERVE = 10 * GIB
COPY = "sampler's copy of the student"  # of transformers with ROLLOUT_AHEAD
ROW_STEP = 256  # tokens, in which a length that fits is looked for


def offloads(run: Run, machine: Machine) -> bool:
    """Whether ENGINE=local keeps in main memory what it does not use; OFFLOAD=auto decides by the memory plan."""
    config = run.config
    if config.offload != "auto":
        return config.offload == "1"
    return machine.gpus > 0 and not _local_plan(run, machine, False).fits


def sampler_share(run: Run, machine: Machine) -> float:
    """vLLM's share of a GPU's memory while it is awake. `machine`: before the run has taken any of it."""
    if run.config.gpu_memory_utilization is not None or not machine.gpus:
        return run.config.gpu_memory_utilization or LARGEST_SHARE  # without a GPU it means nothing
    sampling = memory_plan(run, machine).gpu["sampling"]
    return (sampling.get(WEIGHTS, 0) + sampling.get(CACHE, 0)) / machine.gpu_total  # none without vLLM


def memory_plan(run: Run, machine: Machine) -> MemoryPlan:
    """Of the engine that was selected, at the longest sequences that the run allows."""
    if run.config.engine == "nemo-rl":
        return _nemo_rl_plan(run, machine)
    return _local_plan(run, machine, offloads(run, machine))


def _local_plan(run: Run, machine: Machine, offload: bool) -> MemoryPlan:
    config, shape = run.config, _shape(run.config.student_model)
    with_vllm = bool(machine.gpus) and config.sampler != "transformers" and (has_vllm() or bool(machine.stated))
    terms = local_terms(
        shape,
        student_tokens=_student_tokens(run, run.max_total_tokens),
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
        _add_sampler(run, machine, terms[0], shape, 1)
    elif config.rollout_ahead:
        for phase in terms[0].values():
            phase |= {COPY: (2 if config.lora_rank else 4) * shape.parameters}
    changes = ["ENGINE=nemo-rl on several GPUs"] + ([] if offload else ["OFFLOAD=1"])
    changes += _common_changes(run) + ([] if config.lora_rank else ["LORA_RANK=32 LR=1e-4"])
    title = f"ENGINE=local{' with OFFLOAD=1' if offload else ''}"
    return make_plan(title, terms, machine, 1, changes)


def _nemo_rl_plan(run: Run, machine: Machine) -> MemoryPlan:
    cluster = _cluster(run, machine)
    plan = _plan_of(run, machine, cluster, run.max_total_tokens)
    if plan.fits:
        return plan
    changes = [*_what_fits(run, machine, cluster), *_common_changes(run)]
    return replace(plan, changes=changes, rows=_describe_rows(run, cluster))


def _cluster(run: Run, machine: Machine) -> ClusterShape:
    gpus = machine.gpus or torch.cuda.device_count()  # as NemoEngine counts them
    model = run.config.student_model
    return cluster_shape(run.config, gpus, load_model_config(model), _shape(model).parameters)


def _plan_of(run: Run, machine: Machine, cluster: ClusterShape, row: int) -> MemoryPlan:
    """`row`: the longest student sequence, in tokens."""
    config, shape = run.config, _shape(run.config.student_model)
    terms = nemo_rl_terms(
        shape,
        gpus=cluster.gpus,
        nodes=cluster.num_nodes,
        student_tokens=_student_tokens(run, row) // cluster.context_parallel,
        teacher_tokens=max(config.tokens_per_micro_batch, _teacher_row(run, row)) // cluster.context_parallel,
        # A group's last stage has the teacher's hidden states, and of context parallelism each rank.
        step_tokens=config.num_prompts_per_step * row * cluster.context_parallel * cluster.pipeline_parallel,
        checkpointing=config.gradient_checkpointing,
        all_vocab_entries=config.kl_grad_eps == 0,
        sampler_bytes=0,
        tensor_parallel=cluster.tensor_parallel,
        **_megatron(run, cluster),
    )
    _add_sampler(run, machine, terms[0], shape, cluster.sampler_tensor_parallel)
    return make_plan("ENGINE=nemo-rl", terms, machine, cluster.gpus_per_node, [])


def _megatron(run: Run, cluster: ClusterShape) -> dict[str, int]:
    """Of nemo_rl_terms' arguments those of TRAINER_BACKEND=megatron."""
    if run.config.trainer_backend != "megatron":
        return {}
    with_te = choose_megatron_layers(run.config.megatron_layers)[0] == "te"
    parallel = cluster.tensor_parallel * cluster.pipeline_parallel
    return {"megatron_parallel": parallel, "megatron_state": 10 if with_te else 12}


def _what_fits(run: Run, machine: Machine, cluster: ClusterShape) -> list[str]:
    """The least that would have to change: GPUs or nodes, or the longest sequence."""

    def fits(cluster: ClusterShape, row: int) -> bool:
        return _plan_of(run, machine, cluster, row).fits

    changes = []
    for factor in (2, 4, 8, 16):
        larger = replace(cluster, num_nodes=cluster.num_nodes * factor)
        if fits(larger, run.max_total_tokens):
            changes.append(f"{larger.gpus} GPUs (GPUS_PER_NODE, NUM_NODES)")
            break
    rows = range(ROW_STEP, run.max_total_tokens, ROW_STEP)
    # Whether it fits changes once on the way from short to long.
    longest = bisect.bisect_left(rows, True, key=lambda row: not fits(cluster, row))
    if longest:
        changes.append(f"sequences of {rows[longest - 1]} tokens (MAX_TOTAL_SEQUENCE_LENGTH)")
    return changes


def _describe_rows(run: Run, cluster: ClusterShape) -> str:
    """The arithmetic of the longest sequences, which context parallelism alone splits over GPUs."""
    shape, parallel, ranks = _shape(run.config.student_model), cluster.tensor_parallel, cluster.context_parallel
    student, teacher = (n // ranks for n in (run.max_total_tokens, _teacher_row(run, run.max_total_tokens)))
    checkpointing = run.config.gradient_checkpointing
    between = shape.layers * student * shape.width * 2
    whole = shape.activations(student, checkpointing, 2, parallel)
    inside = f"and {(whole - between) / GIB:.1f} inside one layer"
    parts = f"{between / GIB:.1f} between {shape.layers} layers of {shape.width} bf16 numbers a token {inside}"
    split = f"split over {ranks} GPUs" if ranks > 1 else "not split over GPUs"
    return (
        f"a sequence is {split}: a student's of {student:,} tokens takes {whole / GIB:.1f} GiB of "
        f"activations{f', {parts}' if checkpointing else ''}, a teacher's of {teacher:,} tokens "
        f"{shape.scoring(teacher, parallel) / GIB:.1f}; beside them are "
        f"{16 * shape.parameters / cluster.gpus / GIB:.1f} of weights, gradients and Adam's moments"
    )


def describe_sampler(run: Run, plan: MemoryPlan, machine: Machine) -> str | None:
    """How much vLLM's KV cache holds while it samples; None without vLLM on a GPU."""
    sampling = plan.gpu.get("sampling", {})
    if CACHE not in sampling:
        return None
    nemo_rl = run.config.engine == "nemo-rl"
    parallel = _cluster(run, machine).sampler_tensor_parallel if nemo_rl else 1
    return describe_cache(_shape(run.config.student_model), sampling, parallel, run.max_model_len)


def _common_changes(run: Run) -> list[str]:
    config = run.config
    changes = ["a smaller TOKENS_PER_MICRO_BATCH, GPU_MEMORY_UTILIZATION or MAX_TOTAL_SEQUENCE_LENGTH"]
    changes += ["KL_GRAD_EPS=1e-4"] if config.kl_grad_eps == 0 else []
    return changes if config.gradient_checkpointing else ["GRADIENT_CHECKPOINTING=1", *changes]


def _student_tokens(run: Run, row: int) -> int:
    """Of a micro-batch. A pair that is longer than TOKENS_PER_MICRO_BATCH is one by itself."""
    return max(row, int(STUDENT_SHARE * run.config.tokens_per_micro_batch))


def _teacher_row(run: Run, row: int) -> int:
    """The longest teacher sequence beside student sequences of `row` tokens."""
    cue = max(len(run.layout.cue(r)) for r in (0, 1))
    return min(run.max_teacher_tokens, 2 * row + cue)


def _add_sampler(
    run: Run, machine: Machine, phases: dict[str, Terms], shape: ModelShape, tensor_parallel: int
) -> None:
    """Replace the sampler's share in the terms of its phase by what it consists of; with ROLLOUT_AHEAD, beside a
    trainer on the same GPU, it is there in all phases."""
    del phases["sampling"]["sampler"]
    always = run.config.rollout_ahead and not run.config.rollout_gpus
    awake = list(phases.values()) if always else [phases["sampling"]]
    share = _sampler_bytes(run, machine, max(awake, key=lambda phase: sum(phase.values())))
    if machine.gpus:
        for phase in awake:
            phase |= share_terms(shape, share, run.max_model_len, tensor_parallel)


def _sampler_bytes(run: Run, machine: Machine, others: Terms) -> int:
    """vLLM's part of a GPU, which it takes at once: GPU_MEMORY_UTILIZATION of it, or what `others`, the terms
    beside it in the largest phase in which it is awake, leave free."""
    total = machine.gpu_total
    if run.config.gpu_memory_utilization is not None:
        return int(run.config.gpu_memory_utilization * total)
    free = total if machine.gpu_bytes is None else machine.gpu_bytes
    left = free - sum(others.values()) - SAMPLER_RESERVE
    return int(min(max(left, SMALLEST_SHARE * total), LARGEST_SHARE * total))


@functools.cache
def _shape(model_path: str) -> ModelShape:
    config = load_model_config(model_path)
    return ModelShape.of(config, count_parameters(config))
