"""ENGINE=nemo-rl on one and two GPUs: complete runs, killed and continued; step 1 matches the local engine.

A run takes about four minutes, one of them to start NeMo-RL's workers. No other NeMo-RL job may use these GPUs
meanwhile: its workers find each other through a socket named after the GPU.
"""

import json

import pytest
import torch

from opsd.select_engine import why_no_nemo_rl
from srt.common.files import read_jsonl
from tests.opsd.helpers.gpu_runs import STEPS, kill_after_step_4, runs_in

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(why_no_nemo_rl() is not None, reason=f"NeMo-RL was NOT run: {why_no_nemo_rl()}"),
]

LAYOUTS = {
    "one GPU": {"GPUS_PER_NODE": "1"},
    "data parallel": {"GPUS_PER_NODE": "2", "TENSOR_PARALLEL_SIZE": "1", "SAMPLER_TENSOR_PARALLEL_SIZE": "1"},
    "tensor parallel": {"GPUS_PER_NODE": "2", "TENSOR_PARALLEL_SIZE": "2", "SAMPLER_TENSOR_PARALLEL_SIZE": "2"},
    "vLLM on its own": {"GPUS_PER_NODE": "2", "ROLLOUT_GPUS": "1"},
}


@pytest.fixture(scope="module")
def start(tiny_checkpoint, tmp_path_factory):
    return runs_in(tmp_path_factory.mktemp("runs"), tiny_checkpoint)


@pytest.fixture(scope="module")
def first_step(start):
    """The local engine's metrics."""
    folder, process = start("local", "local", MAX_NUM_STEPS="1", VAL_PERIOD="0")
    assert process.wait(300) == 0
    return read_jsonl(folder / "metrics.jsonl")[0]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_killed_and_continued_run_starts_like_the_local_engine(start, first_step, layout):
    settings = LAYOUTS[layout]
    if torch.cuda.device_count() < int(settings["GPUS_PER_NODE"]):
        pytest.skip("needs two GPUs")
    folder, killed = start("nemo-rl", layout, **settings)
    kill_after_step_4(folder, killed)
    _, continued = start("nemo-rl", layout, **settings)
    assert continued.wait(400) == 0

    lines = read_jsonl(folder / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(STEPS))
    for name in ("kl", "entropy", "teacher_entropy", "grad_norm"):
        assert lines[0][name] == pytest.approx(first_step[name], rel=0.05), name
    assert all(line["logprob_gap"] < 0.05 for line in lines)  # nats: vLLM has the trainer's weights in every step
    assert "val_avg_at_k" in lines[1]
    config = json.loads((folder / "student" / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]


@pytest.mark.timeout(600)
def test_vllm_on_its_own_gpu_rolls_out_ahead(start):
    """With weights that do not move, tokens of the step before have the log-probs of this one's."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    split = {"GPUS_PER_NODE": "2", "ROLLOUT_GPUS": "1", "ROLLOUT_AHEAD": "1"}
    folder, process = start("nemo-rl", "ahead", **split, LR="1e-12", TEACHER_SYNC="none", TEACHER_SYNC_STEPS="0")
    assert process.wait(500) == 0
    lines = read_jsonl(folder / "metrics.jsonl")
    assert [line["token_age"] for line in lines] == [0] + (STEPS - 1) * [1]
    gaps = [line["logprob_gap"] for line in lines[:1]] + [line["logprob_gap_age1"] for line in lines[1:]]
    assert max(gaps) < 0.05


def test_vllms_workers_share_compiled_code_between_checkpoints():
    from nemo_rl.models.generation.vllm.vllm_backend import VllmInternalWorkerExtension
    from vllm.config import ModelConfig
    from vllm.utils.import_utils import resolve_obj_by_qualname

    from opsd.nemo_rl.worker.vllm import WORKER_EXTENSION

    assert issubclass(resolve_obj_by_qualname(WORKER_EXTENSION), VllmInternalWorkerExtension)
    assert ModelConfig.compute_hash.__module__ == "srt.sampling.vllm_compile_key"
