"""Groups of options that several entry points share, each with its checks.

The config of an entry point inherits its groups, so the fields stay flat, as in configs/*.yaml and in the
environment.
"""

from dataclasses import dataclass

from srt.config import RECIPES, option


@dataclass(frozen=True)
class RecipeConfig:
    """The preset that decides what no knob sets (srt/recipe.py)."""

    recipe: str = option(choices=RECIPES)


@dataclass(frozen=True)
class PromptConfig:
    """How a problem becomes a prompt (contract/layout.py). None: the checkpoint's value, or the default."""

    mode: str = option(choices=("math", "code"))
    control_phrases: str | None = option(path=True)
    system_prompt: str | None = option()
    prompt_suffix: str | None = option()
    chat_template_kwargs: str | None = option()


@dataclass(frozen=True)
class PlanConfig:
    """The machine to plan for, if it is not this one (srt/common/machine.py)."""

    plan_for: str | None = option()


@dataclass(frozen=True)
class RemoteCodeConfig:
    """Whether code that comes with a model may run (srt/common/remote_code.py)."""

    trust_remote_code: bool = option()


@dataclass(frozen=True)
class SamplerConfig:
    """Which sampler to use, and how it samples."""

    sampler: str = option(choices=("auto", "vllm", "transformers"))
    sampler_batch: int = option(ge=1)
    temperature: float = option(ge=0, le=100)
    top_p: float = option(ge=1e-6, le=1)


@dataclass(frozen=True)
class ParallelSamplerConfig(SamplerConfig):
    """A sampler with the GPUs to itself, possibly several engines: collection and evaluation."""

    batch_size: int = option(ge=1)
    max_tokens: int = option(ge=1)
    dtype: str = option(choices=("auto", "bfloat16", "float16", "float32"))
    gpu_memory_utilization: float = option(ge=0.01, le=1)
    tensor_parallel_size: int = option(ge=1)
    data_parallel_size: int | None = option(ge=1)
    data_parallel_backend: str = option(choices=("mp", "ray"))


@dataclass(frozen=True)
class GradingConfig:
    """Limits of the verifier that `mode` selects (srt/verifiers/factory.py)."""

    mode: str = option(choices=("math", "code"))
    grading_workers: int = option(ge=1)
    grading_time_limit: float = option(ge=0.1)
    code_sandbox: str = option(choices=("bwrap", "rlimits"))
    code_time_limit: float = option(ge=0.1)
    code_memory_limit: float = option(ge=16)
    code_time_factor: float = option(ge=0.1)


# Knobs of ParallelSamplerConfig and GradingConfig that decide how the work is spread, not which samples and
# verdicts come out.
HOW_WORK_IS_SPREAD = (
    "sampler",
    "batch_size",
    "sampler_batch",
    "gpu_memory_utilization",
    "tensor_parallel_size",
    "data_parallel_size",
    "data_parallel_backend",
    "grading_workers",
    "grading_time_limit",
    "code_sandbox",
)


@dataclass(frozen=True)
class ProblemFilterConfig:
    """Which problems of the dataset are left out (srt/problems/)."""

    min_tests: int = option(ge=0)


@dataclass(frozen=True)
class AdamConfig:
    """AdamW and gradient clipping (max_grad_norm 0: off)."""

    weight_decay: float = option(ge=0)
    adam_beta1: float = option(ge=0, le=0.99999)
    adam_beta2: float = option(ge=0, le=0.99999)
    max_grad_norm: float = option(ge=0)


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters on all linear layers except lm_head; rank 0 trains all weights instead."""

    lora_rank: int = option(ge=0)
    lora_alpha: float = option(gt=0)
