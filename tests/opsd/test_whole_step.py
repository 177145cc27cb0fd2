"""The benchmark of the whole step: every arm runs, all on the same prompts with the same lengths."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from srt.common.files import write_jsonl
from srt.common.models import load_model
from tests.opsd.helpers.benchmarks import BENCHMARKS, benchmark_process, run_benchmark
from tests.opsd.helpers.needs_nemo_rl import needs_nemo_rl
from tests.opsd.helpers.on_ranks import GENEROUS, waits_for_ranks

without_source, without_packages = needs_nemo_rl("the benchmark's arms of NeMo-RL were NOT run")
ON_CPU = Path(__file__).parent / "helpers" / "run_whole_step_on_cpu.py"
SIZES = {
    "prompts": 4,
    "steps": 2,
    "lengths": "20,0.8",
    "max_tokens": 40,
    "prompt_tokens": 80,
    "tokens_per_micro_batch": 400,
    "stock_tokens": 400,
    "matmul": 64,
}


@pytest.fixture(scope="module")
def options(tiny_checkpoint, tmp_path_factory):
    data = tmp_path_factory.mktemp("whole_step") / "problems.jsonl"
    write_jsonl(data, [{"id": f"p{n}", "problem": f"x = {n} [A] + 1", "answer": "7"} for n in range(9)])
    return SIZES | {"model": str(tiny_checkpoint), "data": str(data)}


def run(options, arms, folder):
    """The benchmark's report, its table and what it printed."""
    files = [f"json={folder / 'out.json'}", f"table={folder / 'out.md'}", f"arms={';'.join(arms)}"]
    given = [f"{name}={value}" for name, value in options.items()]
    printed = run_benchmark("whole_step", *given, *files)
    return json.loads((folder / "out.json").read_text()), (folder / "out.md").read_text(), printed


def expected_lengths(options):
    """(prompt, y) of each timed step, by the benchmark's own rule."""
    sys.path.insert(0, str(BENCHMARKS))
    from step_common import Options, in_steps, length_of

    options = Options(**options)
    return [sorted((len(chat), length_of(chat, options)) for chat in chats) for chats in in_steps(options)]


def lengths_of(figures):
    return [sorted(map(tuple, step["lengths"])) for step in figures["steps"]]


def test_arms_of_the_local_engine_train_on_the_lengths_of_the_prompts(options, tmp_path):
    arms = ["matmul", "local", "local packing=1", "local over_issue=0.5", "nemo-rl over_issue=0.5 tensor=1"]
    report, table, printed = run(options | {"sampler": "transformers"}, arms, tmp_path)
    by_arm = {row["arm"]: row for row in report["arms"]}
    expected = expected_lengths(options)
    assert len({y for step in expected for _, y in step}) > 3  # not all at a limit
    assert lengths_of(by_arm["local"]) == lengths_of(by_arm["local packing=1"]) == expected
    over = by_arm["local over_issue=0.5"]
    assert sorted(sum(lengths_of(over), [])) == sorted(sum(expected, []))
    assert over["stale_tokens"][1] > 0  # it did issue early
    for row in (by_arm["local"], over):
        assert row["tokens_per_step"] == sum(y for step in expected for _, y in step) / 2
        assert row["seconds_per_step"] == pytest.approx(sum(step["seconds"] for step in row["steps"]) / 2)
        assert {"generation", "teacher", "student"} <= row["parts"].keys()
    assert by_arm["matmul"]["flops"] > 0
    assert "tensor" in by_arm["nemo-rl over_issue=0.5 tensor=1"]["failed"]  # said, and the others were measured
    assert "All arms trained on responses of the same lengths." in table and table in printed
    assert [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| local")] == [
        "| local",
        "| local packing=1",
        "| local over_issue=0.5",
    ]


@pytest.mark.vllm
def test_trl_and_vllm_offline_are_asked_for_the_same_lengths(options, tmp_path):
    report, _, _ = run(options, ["offline", "trl"], tmp_path)
    offline, trl = report["arms"]
    assert lengths_of(trl) == expected_lengths(options)
    assert {"generation", "student"} <= trl["parts"].keys() and offline["rates"]["1"] > 0


@pytest.mark.parametrize("arm", ["nemo-rl packing=1", "stock"])
@without_source
@without_packages
@waits_for_ranks
def test_arms_of_nemo_rl_train_on_the_lengths_of_the_prompts(options, arm, tmp_path):
    result = tmp_path / "result.json"
    done = subprocess.run(
        [sys.executable, str(ON_CPU), arm, json.dumps(options | {"gpus": 2}), str(result)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "FAKE_GPUS": "2"},
        capture_output=True,
        text=True,
        timeout=GENEROUS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(result.read_text())
    assert lengths_of(figures) == expected_lengths(options)
    for step in figures["steps"]:
        assert step["seconds"] > 0 and {"generation", "teacher", "student"} <= step["parts"].keys()


def test_counted_operations_are_those_of_a_forward_pass(tiny_checkpoint):
    sys.path.insert(0, str(BENCHMARKS))
    from step_arithmetic import Arithmetic, step_work
    from step_common import Step

    model, arithmetic = load_model(str(tiny_checkpoint), "float32"), Arithmetic.of(str(tiny_checkpoint))
    model.set_attn_implementation("eager")  # torch does not count those of the CPU's own kernel
    length = 24
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.arange(length)[None])
    whole = arithmetic.forward([length]) + arithmetic.logits(length)
    rest_of_attention = 2 * arithmetic.attention * length**2  # torch counts the products that causality masks
    assert counter.get_total_flops() == pytest.approx(whole + rest_of_attention, rel=1e-6)

    step = Step(1.0, [(10, 4), (12, 6)], {})
    same = step_work(arithmetic, step, cue=-1)
    students, logits = arithmetic.forward([14, 18]), arithmetic.logits(10)
    assert same == {"teacher": students + logits, "student": 4 * students + 3 * logits}
    ours = step_work(arithmetic, step, cue=5)
    assert ours == {"teacher": arithmetic.forward([23, 29]), "student": 4 * students + 4 * logits}


def test_arms_end_with_a_benchmark_that_is_stopped(options, tmp_path):
    given = [f"{name}={value}" for name, value in (options | {"steps": 10_000, "sampler": "transformers"}).items()]
    files = ["arms=local", f"json={tmp_path / 'out.json'}"]
    command, environment = benchmark_process("whole_step", *given, *files)
    benchmark = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + GENEROUS
    while not (log := tmp_path / "arms" / "local.log").is_file() or not log.stat().st_size:
        assert benchmark.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    children = psutil.Process(benchmark.pid).children()
    benchmark.terminate()
    assert benchmark.wait(GENEROUS) == 128 + signal.SIGTERM
    _, alive = psutil.wait_procs(children, timeout=GENEROUS)
    assert children and not alive
