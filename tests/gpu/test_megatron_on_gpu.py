"""TRAINER_BACKEND=megatron on one and two GPUs: the DTensor worker's numbers, a kill, an export that vLLM loads.

A run takes about four minutes, one or two of them to start NeMo-RL's workers. No other NeMo-RL job may use these
GPUs meanwhile. -k "one and te" takes the runs on one GPU with Transformer Engine's layers.
"""

import json
import subprocess
import sys

import pytest
import torch

from opsd.select_engine import why_no_megatron, why_no_nemo_rl
from srt.common.files import read_jsonl
from tests.opsd.helpers.four_layers import with_four_layers
from tests.opsd.helpers.gpu_runs import STEPS, kill_after_step_4, runs_in
from tests.opsd.helpers.megatron_layer_kinds import LAYERS

missing = why_no_nemo_rl() or why_no_megatron()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(missing is not None, reason=f"Megatron was NOT run: {missing}"),
]
TWO = {"GPUS_PER_NODE": "2", "TENSOR_PARALLEL_SIZE": "1", "SAMPLER_TENSOR_PARALLEL_SIZE": "1"}
LAYOUTS = {
    "one": {"GPUS_PER_NODE": "1"},
    "data": TWO,
    "tensor": TWO | {"TENSOR_PARALLEL_SIZE": "2"},
    "pipeline": TWO | {"PIPELINE_PARALLEL_SIZE": "2"},
    "context": TWO | {"CONTEXT_PARALLEL_SIZE": "2"},
}
# The log-probs of a sequence's tokens in the exported model, by vLLM and by transformers, in bf16.
COMPARE = """
import json, sys, torch
from transformers import AutoModelForCausalLM
from vllm import LLM, SamplingParams

folder, ids = sys.argv[1], [(7 * n) % 300 + 5 for n in range(60)]
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).cuda()
with torch.no_grad():
    logits = model(torch.tensor([ids]).cuda()).logits.float().log_softmax(-1)[0]
ours = [logits[n - 1, ids[n]].item() for n in range(1, len(ids))]
del model
llm = LLM(folder, enforce_eager=True, gpu_memory_utilization=0.3, max_model_len=128, skip_tokenizer_init=True)
params = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
(output,) = llm.generate([{"prompt_token_ids": ids}], params)
theirs = [line[token].logprob for line, token in zip(output.prompt_logprobs[1:], ids[1:])]
print("GAP", max(abs(a - b) for a, b in zip(ours, theirs)))
"""


@pytest.fixture(scope="module")
def start(tiny_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return runs_in(folder, with_four_layers(tiny_checkpoint, folder / "checkpoint"))


@pytest.fixture(scope="module")
def first_step(start):
    """The DTensor worker's metrics."""
    folder, process = start("nemo-rl", "dtensor", GPUS_PER_NODE="1", MAX_NUM_STEPS="1", VAL_PERIOD="0")
    assert process.wait(500) == 0
    return read_jsonl(folder / "metrics.jsonl")[0]


@pytest.fixture(scope="module")
def continued(start):
    """continued(layers): the folder of a run on one GPU that was killed and finished; made once."""
    made = {}

    def run(layers):
        if layers not in made:
            settings = LAYOUTS["one"] | {"TRAINER_BACKEND": "megatron", "MEGATRON_LAYERS": layers}
            folder, killed = start("nemo-rl", f"killed {layers}", **settings)
            kill_after_step_4(folder, killed)
            _, again = start("nemo-rl", f"killed {layers}", **settings)
            assert again.wait(500) == 0
            made[layers] = folder
        return made[layers]

    return run


@LAYERS
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_first_step_has_the_dtensor_workers_numbers(start, first_step, layout, layers):
    settings = LAYOUTS[layout] | {"TRAINER_BACKEND": "megatron", "MEGATRON_LAYERS": layers}
    if torch.cuda.device_count() < int(settings["GPUS_PER_NODE"]):
        pytest.skip("needs two GPUs")
    folder, process = start("nemo-rl", f"{layout} {layers}", MAX_NUM_STEPS="2", VAL_PERIOD="0", **settings)
    assert process.wait(500) == 0
    lines = read_jsonl(folder / "metrics.jsonl")
    for name in ("kl", "entropy", "teacher_entropy", "grad_norm"):
        assert lines[0][name] == pytest.approx(first_step[name], rel=0.05), name
    assert all(line["logprob_gap"] < 0.05 for line in lines)  # nats: vLLM has the trainer's weights in every step


@LAYERS
def test_a_killed_run_on_one_gpu_continues_with_optimizer_and_teacher(continued, layers):
    lines = read_jsonl(continued(layers) / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(STEPS))
    assert all(line["logprob_gap"] < 0.05 and line["grad_norm"] > 0 for line in lines)
    assert "val_avg_at_k" in lines[1]


@LAYERS
def test_vllm_has_the_log_probs_of_the_student_exported_from_one_gpu(continued, layers):
    student = continued(layers) / "student"
    config = json.loads((student / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    answer = subprocess.run([sys.executable, "-c", COMPARE, student], capture_output=True, text=True, timeout=500)
    assert answer.returncode == 0, answer.stderr[-3000:]
    (gap,) = [float(line.split()[1]) for line in answer.stdout.splitlines() if line.startswith("GAP")]
    assert gap < 0.1
