"""A whole run of the NeMo-RL engine on CPU workers, killed and continued, against the local engine's.

Needs NeMo-RL's source (NEMO_RL_DIR, or where setup_env.sh puts it) and its environment's packages; skipped loudly
otherwise. Two minutes: every start of the workers takes half a minute.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from opsd.problem_order import ProblemOrder
from srt.common.files import read_jsonl, write_jsonl
from tests.opsd.helpers.needs_nemo_rl import needs_nemo_rl
from tests.opsd.helpers.on_ranks import GENEROUS, waits_for_ranks

RUN = Path(__file__).parents[1] / "helpers" / "run_nemo_on_cpu.py"
LOCAL = Path(__file__).parents[3] / "self-distillation" / "run_distillation.py"

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU; see tests/gpu"),
    *needs_nemo_rl("the NeMo-RL engine was NOT run"),
]

SETTINGS = {
    "ENGINE": "local",
    "PROMPT_SUFFIX": "",
    "SAMPLER": "transformers",
    "REPORT_TO": "none",
    "LR": "1e-3",
    "NUM_PROMPTS_PER_STEP": "4",
    "TRAIN_GLOBAL_BATCH_SIZE": "2",
    "MAX_TOTAL_SEQUENCE_LENGTH": "40",
    "WARMUP_STEPS": "1",
    "GRADING_WORKERS": "1",
    "GRADIENT_CHECKPOINTING": "0",
    "TOKENS_PER_MICRO_BATCH": "150",
    "KL_TYPE": "mixed",
    "MIXED_KL_WEIGHT": "0.3",
    "KL_TEMPERATURE": "0.7",
    "KL_GRAD_EPS": "1e-4",
    "LR_SCHEDULE": "cosine",
    "WEIGHT_DECAY": "2",
    "ADAM_BETA1": "0.7",
    "ADAM_BETA2": "0.8",
    "MAX_GRAD_NORM": "0.5",
    "MAX_NUM_STEPS": "4",
    "TEACHER_SYNC": "steps",
    "TEACHER_SYNC_STEPS": "2",
    "SAVE_PERIOD": "1",
    "VAL_PERIOD": "2",
    "VAL_NUM_SAMPLES": "2",
    "STOP_ON_COLLAPSE": "1",  # never, but the best student is kept
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory, coin_checkpoint, other_checkpoint):
    """The knobs of both runs: right and wrong responses, a teacher of its own until it is synchronised."""
    folder = tmp_path_factory.mktemp("both engines")
    problems = [{"id": f"p{n}", "problem": f"x = {n} [A] + 1", "answer": "7"} for n in range(6)]
    write_jsonl(folder / "problems.jsonl", problems)
    write_jsonl(folder / "validation.jsonl", problems[:2])
    return (
        os.environ
        | SETTINGS
        | {
            "STUDENT_MODEL": str(coin_checkpoint),
            "TEACHER_MODEL": str(other_checkpoint),
            "TRAIN_DATASET": str(folder / "problems.jsonl"),
            "VAL_DATASET": str(folder / "validation.jsonl"),
            "PYTHONPATH": os.pathsep.join(sys.path),
            "FOLDER": str(folder),
        }
    )


def start(script, environment, output):
    with output.with_suffix(".out").open("w") as out:
        return subprocess.Popen(
            [sys.executable, script], env=environment | {"OUTPUT_DIR": str(output)}, stdout=out
        )


def kill_and_continue(settings, output, after):
    """A run that is killed once its checkpoint `after` exists, and then goes on to its end."""
    first = start(RUN, settings, output)
    while first.poll() is None and not after.exists():
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert start(RUN, settings, output).wait(GENEROUS) == 0


@pytest.mark.parametrize("tensor_parallel, packing, rollout_gpus", [(1, "1", 0), (2, "auto", 0), (1, "0", 1)])
@waits_for_ranks
def test_a_killed_and_continued_run_on_two_gpus_is_the_local_engines(
    environment, tensor_parallel, packing, rollout_gpus
):
    """The local engine pads. With a third GPU to sample on, both roll out ahead."""
    folder = Path(environment["FOLDER"])
    name = f"{tensor_parallel} {packing} {rollout_gpus}"
    local, nemo = folder / f"local {rollout_gpus}", folder / f"nemo {name}"
    environment = environment | {"ROLLOUT_AHEAD": str(rollout_gpus)}
    assert start(LOCAL, environment, local).wait(GENEROUS) == 0

    settings = environment | {"ENGINE": "nemo-rl", "FAKE_GPUS": str(2 + rollout_gpus)}
    settings |= {"TENSOR_PARALLEL_SIZE": str(tensor_parallel), "ROLLOUT_GPUS": str(rollout_gpus)}
    settings["PACKING"] = packing
    kill_and_continue(settings, nemo, after=nemo / "checkpoints" / "step_3")

    said = nemo.with_suffix(".out").read_text()
    assert ("packing: the sequences" in said) == (packing == "1")
    assert ("padding instead of packing, because ENGINE=nemo-rl was not measured" in said) == (packing == "auto")
    lines, found = (read_jsonl(run / "metrics.jsonl") for run in (local, nemo))
    assert [line["step"] for line in found] == [0, 1, 2, 3]
    assert any(0 < line["reward"] < 1 for line in found)
    assert [line.get("token_age", 0) for line in found] == [0] + 3 * [rollout_gpus]
    for theirs, ours in zip(lines, found, strict=True):
        for name in theirs.keys() - {"seconds", "ahead_seconds"}:
            expected = theirs[name] if theirs[name] is None else pytest.approx(theirs[name], rel=1e-3, abs=1e-5)
            assert ours[name] == expected, (ours["step"], name)
    students = [AutoModelForCausalLM.from_pretrained(run / "student") for run in (local, nemo)]
    for (name, theirs), ours in zip(students[0].named_parameters(), students[1].parameters(), strict=True):
        assert (theirs - ours).abs().max() < 1e-3, name
    assert read_jsonl(nemo / "samples.jsonl")[0]["tokens"] == read_jsonl(local / "samples.jsonl")[0]["tokens"]


@pytest.mark.parametrize("role", ["STUDENT_MODEL", "TEACHER_MODEL"])
@waits_for_ranks
def test_a_start_with_an_incomplete_model_ends_in_a_sentence_and_joins_no_cluster(
    environment, other_checkpoint, tmp_path, role
):
    """A teacher's weights are read by the workers, which the driver ends, and not NeMo-RL's destructors."""
    model = shutil.copytree(other_checkpoint, tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    settings = environment | {"ENGINE": "nemo-rl", "FAKE_GPUS": "1", role: str(model)}
    settings["OUTPUT_DIR"] = str(tmp_path / "run")
    done = subprocess.run([sys.executable, RUN], env=settings, capture_output=True, text=True, timeout=GENEROUS)
    assert done.returncode == 2
    *_, last = done.stderr.strip().splitlines()
    assert last.startswith(f"error: {model}: tensors missing: 1 (the first: model.norm.weight)"), done.stderr


@waits_for_ranks
def test_a_killed_and_continued_run_with_over_issue_trains_on_everything_once(environment):
    """Which of two engines' responses are the first depends on clocks, so no other run has the same steps."""
    nemo = Path(environment["FOLDER"]) / "over-issue"
    settings = environment | {"ENGINE": "nemo-rl", "FAKE_GPUS": "1", "OVER_ISSUE": "0.5", "MAX_NUM_EPOCHS": "3"}
    settings |= {"VAL_PERIOD": "0", "STOP_ON_COLLAPSE": "0", "LOG_SAMPLES_PERIOD": "1"}
    settings |= {"TRAIN_GLOBAL_BATCH_SIZE": "4", "KL_TYPE": "reverse"}
    settings |= {"KL_TEMPERATURE": "0.2", "KL_GRAD_EPS": "1e-3"}  # so peaked that some vocab entries are left out
    kill_and_continue(settings, nemo, after=nemo / "checkpoints" / "step_2")

    lines = read_jsonl(nemo / "metrics.jsonl")
    assert [line["trained_responses"] for line in lines] == [4] * 4
    assert [line["carried_over"] for line in lines] == [2, 2, 2, 0]
    assert lines[0]["token_age"] == 0
    assert any(line["dropped_vocab_fraction"] > 0 for line in lines)
    assert all(line["logprob_gap"] < 1e-4 for line in lines if "logprob_gap" in line)
    trained = [line["id"] for line in read_jsonl(nemo / "samples.jsonl")]
    order = ProblemOrder(6, 4, seed=0)
    assert sorted(trained) == sorted(f"p{order.at(place)}" for place in range(16))
