"""Our configuration as the Megatron section of NeMo-RL's; all its parallelisms but that of experts are used."""

from typing import TYPE_CHECKING, Any

from opsd.config import RunConfig, optimizer_config
from opsd.select_engine import choose_megatron_layers
from srt.common.errors import UserError
from srt.common.models import has_experts
from srt.common.rope import fixed_config

if TYPE_CHECKING:
    from opsd.nemo_rl.driver.config import ClusterShape

# Config entries that change logits after the LM head. (The other engines ask the model's forward pass instead.)
LOGIT_CHANGES = (
    "final_logit_softcapping",
    "logits_scaling",
    "logit_scale",
    "lm_head_multiplier",
    "output_multiplier",
)


def check_megatron(config: RunConfig, model_config: Any) -> None:
    """Raises UserError for what the Megatron worker does not do. `model_config`: the student's."""
    if config.teacher_model != config.student_model:
        raise UserError(
            f"TRAINER_BACKEND=megatron: the teacher is the student as it started, so TEACHER_MODEL="
            f"{config.teacher_model} must be STUDENT_MODEL or unset; TRAINER_BACKEND=dtensor supports others"
        )
    text = model_config.get_text_config()
    for entry in LOGIT_CHANGES:
        if getattr(text, entry, None) not in (None, 1, 1.0):
            raise UserError(
                f"TRAINER_BACKEND=megatron: the config of {config.student_model} sets {entry}="
                f"{getattr(text, entry)}, which changes logits after the LM head and is not implemented; "
                "TRAINER_BACKEND=dtensor supports it"
            )
    if fixed_config(text) is not None:
        raise UserError(
            f"TRAINER_BACKEND=megatron: the rotary frequencies of {config.student_model} depend on lengths "
            "(rope_parameters), which is not implemented; TRAINER_BACKEND=dtensor supports it"
        )
    if has_experts(model_config):
        raise UserError(
            f"TRAINER_BACKEND=megatron: {config.student_model} is a mixture of experts, which is not implemented; "
            "ENGINE=local supports it"
        )
    if text.num_hidden_layers % config.pipeline_parallel_size:
        raise UserError(
            f"PIPELINE_PARALLEL_SIZE={config.pipeline_parallel_size} must divide the {text.num_hidden_layers} "
            f"layers of {config.student_model}"
        )
    layers, _ = choose_megatron_layers(config.megatron_layers)
    if layers == "local" and (reason := why_no_local_layers(text)):
        raise UserError(
            f"MEGATRON_LAYERS={config.megatron_layers}: {config.student_model} {reason}, for which Transformer "
            "Engine's layers are needed (MEGATRON_LAYERS=te); TRAINER_BACKEND=dtensor supports it, too"
        )


def why_no_local_layers(text: Any) -> str | None:
    """What of a model's text config the layers of MEGATRON_LAYERS=local do not have."""
    kinds = set(getattr(text, "layer_types", None) or ()) - {"full_attention"}
    if kinds:
        return f"has layers of {', '.join(sorted(kinds))}"
    if getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True):
        return f"attends within a window (sliding_window={text.sliding_window})"
    if not hasattr(text, "rms_norm_eps"):
        return "has norms that are not RMSNorm"
    return None


def describe_layers(config: RunConfig) -> str:
    """A line for the start of a run."""
    layers, reason = choose_megatron_layers(config.megatron_layers)
    name = {"te": "Transformer Engine's layers and Adam", "local": "torch's attention and norms"}[layers]
    line = f"MEGATRON_LAYERS={layers}, {name} ({reason})"
    if layers == "te":
        line += (
            "\nwarning: with rows of 8,192 tokens on two GPUs, Transformer Engine's layers gave 22 times the "
            "gradient norm of TRAINER_BACKEND=dtensor at the same KL (docs/records.md). Its attention, cuDNN's, "
            "was replaced by torch's since, and no GPU has run that yet: compare the first steps"
        )
    return line


def megatron_section(config: RunConfig, shape: "ClusterShape", total_updates: int) -> dict[str, Any]:
    """`policy.megatron_cfg`: every key that NeMo-RL v0.7.0 reads unconditionally.

    Weights are bf16, gradients fp32; the fp32 master weights and Adam's moments are sharded over the data-parallel
    ranks. Where our configuration has no counterpart, the values are those of NeMo-RL's recipes, except for the
    overlaps.
    """
    tensor_parallel = shape.tensor_parallel
    with_te = choose_megatron_layers(config.megatron_layers)[0] == "te"
    update = optimizer_config(config, total_updates).megatron_sections()
    return {
        "enabled": True,
        # So that the all-gathers of sequence parallelism are launched before the products that hide them.
        "env_vars": {"CUDA_DEVICE_MAX_CONNECTIONS": "1"} if tensor_parallel > 1 else None,
        # A cached conversion is keyed by the model's path alone, whatever was written there since.
        "force_reconvert_from_hf": True,
        "empty_unused_memory_level": 1,
        "activation_checkpointing": config.gradient_checkpointing,
        "recompute_granularity": "full",
        "recompute_modules": None,
        "tensor_model_parallel_size": tensor_parallel,
        "sequence_parallel": tensor_parallel > 1,
        "transformer_impl": "transformer_engine" if with_te else "local",
        "pipeline_model_parallel_size": shape.pipeline_parallel,
        "num_layers_in_first_pipeline_stage": None,
        "num_layers_in_last_pipeline_stage": None,
        "context_parallel_size": shape.context_parallel,
        "pipeline_dtype": "bfloat16",
        "defer_fp32_logits": False,
        "apply_rope_fusion": with_te,
        "bias_activation_fusion": True,
        "gradient_accumulation_fusion": False,
        "use_fused_weighted_squared_relu": False,
        "mtp_num_layers": 0,
        "peft": {"enabled": False},
        "optimizer": update["optimizer"]
        | {
            "sgd_momentum": 0.9,
            "bf16": True,
            "fp16": False,
            "params_dtype": "float32",
            "use_distributed_optimizer": True,
            # Transformer Engine's Adam, whose state includes the master weights. Else they are its parameters.
            "use_precision_aware_optimizer": with_te,
            "optimizer_cpu_offload": False,
            "optimizer_offload_fraction": 0.0,
        },
        "scheduler": update["scheduler"],
        "train_iters": total_updates,
        "distributed_data_parallel_config": {
            "grad_reduce_in_fp32": True,
            # The step accumulates the gradients of all micro-batches before exchanging them (megatron_step.py).
            "overlap_grad_reduce": False,
            # The teacher's weights replace the student's, which must all be present.
            "overlap_param_gather": False,
            "use_custom_fsdp": False,
            "data_parallel_sharding_strategy": "no_shard",  # of Megatron's FSDP, which is off
        },
        "fp8_cfg": {"enabled": False},
        # Read for every model; ours has no experts (check_megatron).
        "expert_model_parallel_size": 1,
        "expert_tensor_parallel_size": 1,
        "freeze_moe_router": False,
        "moe_router_dtype": "fp64",
        "moe_router_load_balancing_type": "none",
        "moe_router_bias_update_rate": 0.0,
        "moe_permute_fusion": False,
        "moe_per_layer_logging": False,
        "moe_enable_deepep": False,
        "moe_token_dispatcher_type": "alltoall",
        "moe_shared_expert_overlap": False,
    }
