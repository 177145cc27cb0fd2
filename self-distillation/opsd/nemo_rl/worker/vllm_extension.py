"""What every worker process of NeMo-RL's vLLM engines imports before it loads its model."""

from nemo_rl.models.generation.vllm.vllm_backend import VllmInternalWorkerExtension

import srt.sampling.vllm_compile_key  # noqa: F401 - one checkpoint uses what was compiled for another


class WorkerExtension(VllmInternalWorkerExtension):
    """NeMo-RL's own, with which it refreshes the weights."""
