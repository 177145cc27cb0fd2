"""The knobs of run_srt_data.sh, apart from what needs torch: splitting the data starts at once."""

from dataclasses import dataclass

from srt.config import knob


@dataclass
class SrtDataKnobs:
    """The knobs of configs/srt_data.yaml, where their meanings and defaults stand."""

    mode: str = knob(choices=("math", "code"))
    model_path: str = knob()
    dataset: str | None = knob()
    dataset_subset: str | None = knob()
    dataset_split: str = knob()
    start_index: int = knob(least=0)
    end_index: int | None = knob(least=1)
    max_samples: int | None = knob(least=1)
    target_revision_samples: int = knob(least=1)
    num_responses: int = knob(least=1)
    num_revisions: int = knob(least=1)
    revise_correct: bool = knob()
    revise_truncated: bool = knob()
    clean: bool = knob()
    control_phrases: str = knob()
    system_prompt: str | None = knob()
    prompt_suffix: str | None = knob()
    chat_template_kwargs: str | None = knob()
    sampler: str = knob(choices=("auto", "vllm", "transformers"))
    batch_size: int = knob(least=1)
    sampler_batch: int = knob(least=1)
    temperature: float = knob(least=0)
    top_p: float = knob(least=1e-6, most=1)
    max_tokens: int = knob(least=1)
    dtype: str = knob(choices=("auto", "bfloat16", "float16", "float32"))
    gpu_memory_utilization: float = knob(least=0.01, most=1)
    tensor_parallel_size: int = knob(least=1)
    data_parallel_size: int | None = knob(least=1)
    data_parallel_backend: str = knob(choices=("mp", "ray"))
    seed: int = knob()
    grading_workers: int = knob(least=1)
    grading_time_limit: float = knob(least=0.1)
    code_sandbox: str = knob(choices=("bwrap", "rlimits"))
    code_time_limit: float = knob(least=0.1)
    code_memory_limit: float = knob(least=16)
    code_time_factor: float = knob(least=0.1)
    stage1_size: int = knob(least=1)
    stage2_size: int = knob(least=1)
    data_prefix: str | None = knob()
    output_dir: str | None = knob()
    train_data_dir: str | None = knob()
