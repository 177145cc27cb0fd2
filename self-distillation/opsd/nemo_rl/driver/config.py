"""Our configuration as NeMo-RL's: plain dictionaries, built without importing NeMo-RL."""

from dataclasses import dataclass
from typing import Any

from opsd.config import RunConfig, optimizer_config
from opsd.nemo_rl.driver.megatron_config import megatron_section
from srt.common.errors import UserError
from srt.sampling.vllm_common import capture_size

# (most parameters, GPUs that share each layer), for training and for sampling. FSDP splits weights and optimizer
# over all GPUs in any case; tensor parallelism splits the cost of a single sequence, at the price of communication
# in every layer.
TENSOR_PARALLEL_BY_SIZE = ((10e9, 1), (20e9, 2), (40e9, 4))
# Megatron shards the optimizer over all GPUs, but each group of GPUs that share layers has all bf16 weights and
# fp32 gradients: 6 bytes per parameter.
MEGATRON_BY_SIZE = ((5e9, 1), (10e9, 2), (20e9, 4))
MAX_TENSOR_PARALLEL = 8


@dataclass(frozen=True)
class ClusterShape:
    """GPUs that train and how they are used: `data_parallel` groups of `group` GPUs each.

    Of a group, `tensor_parallel` GPUs share each layer, `context_parallel` the positions of each sequence, and
    `pipeline_parallel` have a part of the layers each. `rollout_gpus`: others of the same node, on which vLLM
    samples; 0: it samples on those that train.
    """

    num_nodes: int
    gpus_per_node: int
    tensor_parallel: int
    sampler_tensor_parallel: int
    pipeline_parallel: int = 1
    context_parallel: int = 1
    rollout_gpus: int = 0

    @property
    def gpus(self) -> int:
        return self.num_nodes * self.gpus_per_node

    @property
    def group(self) -> int:
        return self.tensor_parallel * self.pipeline_parallel * self.context_parallel

    @property
    def data_parallel(self) -> int:
        return self.gpus // self.group

    def describe(self) -> str:
        engines = (self.rollout_gpus or self.gpus) // self.sampler_tensor_parallel
        others = (("pipeline", self.pipeline_parallel), ("context", self.context_parallel))
        return (
            f"{self.gpus} GPU(s) on {self.num_nodes} node(s): training {self.data_parallel}-fold data parallel "
            f"x {self.tensor_parallel}-fold tensor parallel"
            f"{''.join(f' x {size}-fold {name} parallel' for name, size in others if size > 1)}; "
            f"{engines} vLLM engine(s) of {self.sampler_tensor_parallel}"
            f"{f' on {self.rollout_gpus} GPU(s) of their own' if self.rollout_gpus else ''}"
        )


def cluster_shape(config: RunConfig, visible_gpus: int, model_config: Any, parameters: int) -> ClusterShape:
    """The configured shape, with defaults by model size. `model_config`: the student's transformers config.

    Raises UserError for a shape that the GPUs or the model do not allow.
    """
    per_node = config.gpus_per_node or visible_gpus
    if config.num_nodes == 1 and per_node > visible_gpus:
        raise UserError(f"GPUS_PER_NODE={per_node}: {visible_gpus} GPU(s) are visible")
    rollout_gpus = config.rollout_gpus
    if rollout_gpus and config.num_nodes > 1:
        raise UserError(
            f"ROLLOUT_GPUS={rollout_gpus} NUM_NODES={config.num_nodes}: vLLM gets GPUs of its own on one node "
            "only; leave ROLLOUT_GPUS unset"
        )
    if rollout_gpus >= per_node:
        raise UserError(
            f"ROLLOUT_GPUS={rollout_gpus}: of {per_node} GPU(s), at least one must be left to train; lower it"
        )
    trainer_gpus = per_node - rollout_gpus
    text = model_config.get_text_config()
    heads = (text.num_attention_heads, getattr(text, "num_key_value_heads", None) or text.num_attention_heads)

    def choose(
        knob: str, requested: int | None, sizes: tuple[tuple[float, int], ...], gpus: int, others: int = 1
    ) -> int:
        """`gpus`: of a node. `others`: GPUs of a pipeline and of context parallelism for each one."""

        def supports(size: int) -> bool:
            return gpus % size == 0 and all(count % size == 0 for count in heads)

        if requested is not None and not supports(requested):
            raise UserError(
                f"{knob}={requested} must divide the {gpus} GPU(s) of a node and the model's {heads[0]} "
                f"attention and {heads[1]} key-value heads"
            )
        by_size = next(
            (size for max_parameters, size in sizes if parameters <= max_parameters), MAX_TENSOR_PARALLEL
        )
        total = config.num_nodes * gpus
        fitting = [size for size in range(1, by_size + 1) if supports(size) and total % (size * others) == 0]
        return requested or max(fitting, default=1)

    trainer = MEGATRON_BY_SIZE if config.trainer_backend == "megatron" else TENSOR_PARALLEL_BY_SIZE
    pipeline = config.pipeline_parallel_size  # which splits the weights as tensor parallelism does
    trainer = tuple((most * pipeline, size) for most, size in trainer)
    others = pipeline * config.context_parallel_size
    shape = ClusterShape(
        config.num_nodes,
        trainer_gpus,
        choose("TENSOR_PARALLEL_SIZE", config.tensor_parallel_size, trainer, trainer_gpus, others),
        choose(
            "SAMPLER_TENSOR_PARALLEL_SIZE",
            config.sampler_tensor_parallel_size,
            TENSOR_PARALLEL_BY_SIZE,
            rollout_gpus or trainer_gpus,
        ),
        config.pipeline_parallel_size,
        config.context_parallel_size,
        rollout_gpus,
    )
    if shape.gpus % shape.group:
        raise UserError(
            f"TENSOR_PARALLEL_SIZE={shape.tensor_parallel} x PIPELINE_PARALLEL_SIZE={shape.pipeline_parallel} x "
            f"CONTEXT_PARALLEL_SIZE={shape.context_parallel} must divide the {shape.gpus} GPU(s)"
        )
    return shape


def policy_config(
    config: RunConfig, shape: ClusterShape, generation: dict[str, Any], total_updates: int
) -> dict[str, Any]:
    """NeMo-RL's `policy` section for the worker of TRAINER_BACKEND, which ours extends.

    Its batch sizes belong to NeMo-RL's own training calls, which our loop does not make.
    """
    policy = {
        "model_name": config.student_model,
        "tokenizer": {"name": config.student_model, "chat_template_kwargs": None},
        "train_global_batch_size": config.train_global_batch_size,
        "train_micro_batch_size": 1,
        "logprob_batch_size": 1,
        "generation_batch_size": config.sampler_batch,
        "max_total_sequence_length": config.max_total_sequence_length,
        "precision": "bfloat16",  # of matrix products; for weights, gradients and Adam's moments see the sections
        "offload_optimizer_for_logprob": False,
        "hf_config_overrides": {},
        "dynamic_batching": {"enabled": False},
        "sequence_packing": {"enabled": False},
        "make_sequence_length_divisible_by": 1,
        "generation": generation,
    }
    if config.trainer_backend == "megatron":
        megatron = megatron_section(config, shape, total_updates)
        return policy | {"dtensor_cfg": {"enabled": False}, "megatron_cfg": megatron}
    return policy | _dtensor_sections(config, shape, total_updates)


def _dtensor_sections(config: RunConfig, shape: ClusterShape, total_updates: int) -> dict[str, Any]:
    """For the DTensor worker (V1). Weights, gradients and Adam's moments are fp32, sharded over all GPUs."""
    return {
        "dtensor_cfg": {
            "enabled": True,
            "_v2": False,
            "cpu_offload": False,
            "sequence_parallel": False,
            "activation_checkpointing": config.gradient_checkpointing,
            "tensor_parallel_size": shape.tensor_parallel,
            "context_parallel_size": 1,  # a sequence's positions must be on one GPU: the KL selects among them
            "custom_parallel_plan": None,
        },
    } | optimizer_config(config, total_updates).dtensor_sections()


def generation_config(
    config: RunConfig,
    shape: ClusterShape,
    max_model_len: int,
    eot_ids: list[int],
    pad_id: int,
    memory_utilization: float,
    hf_overrides: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """NeMo-RL's `policy.generation` section: vLLM on the GPUs that train, asleep while they do, or on its own."""
    return {
        "backend": "vllm",
        "model_name": config.student_model,
        "max_new_tokens": max_model_len,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "top_k": None,
        "stop_token_ids": list(eot_ids),
        "stop_strings": None,
        "_pad_token_id": pad_id,
        "colocated": {
            "enabled": not shape.rollout_gpus,
            "resources": {"gpus_per_node": shape.rollout_gpus or None, "num_nodes": None},
        },
        "vllm_cfg": {
            "async_engine": False,
            "precision": "bfloat16",
            "kv_cache_dtype": "auto",
            "tensor_parallel_size": shape.sampler_tensor_parallel,
            "pipeline_parallel_size": 1,
            "expert_parallel_size": 1,
            "gpu_memory_utilization": memory_utilization,
            "max_model_len": max_model_len,
            "enforce_eager": config.enforce_eager,
            "enable_prefix_caching": True,
            "load_format": "dummy",  # the student's weights arrive with the first weight sync
            "skip_tokenizer_init": True,
            "use_tqdm": False,
        },
        # Passed on to vLLM's engine.
        "vllm_kwargs": {
            "max_num_seqs": config.sampler_batch,
            "max_cudagraph_capture_size": capture_size(config.sampler_batch),
            "hf_overrides": hf_overrides or {},
        },
    }
