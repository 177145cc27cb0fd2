"""benchmarks/sft.py: what its variant "trl" is timed on is what its tokens/s counts."""

import importlib.util
import os
import subprocess
import sys

import pytest

from experiments.eight_gpus.data import PREFIX, write_tuples
from experiments.eight_gpus.models import save_model
from tests.end_to_end.commands import REPOSITORY

BENCHMARK = REPOSITORY / "self-revision-training" / "benchmarks" / "sft.py"


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    """A tiny model and tuples of 24 to 300 tokens."""
    folder = tmp_path_factory.mktemp("benchmark")
    save_model("tiny", folder / "model")
    write_tuples(folder / "data", 32, median=60, longest=400)
    return {"model": str(folder / "model"), "stage_file": str(folder / "data" / f"{PREFIX}_stage1.json")}


@pytest.fixture
def sft(monkeypatch):
    """The benchmark as a module."""
    spec = importlib.util.spec_from_file_location("sft_benchmark", BENCHMARK)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # for its dataclasses
    spec.loader.exec_module(module)
    return module


def test_the_tokens_of_trl_are_those_of_its_timed_updates(sft, arguments, tmp_path):
    benchmark = sft.Benchmark(sft.Options(**arguments, variants="trl", tuples=8, updates=3, warmup=1))
    trainer, _, passes = benchmark._trainer("trl", [], tmp_path, sft.Timer(1))
    trainer.train()
    tokens = [entry["num_tokens"] for entry in trainer.state.log_history if "num_tokens" in entry]
    assert passes == 1 and len(tokens) == 4
    assert tokens[-1] - tokens[0] == sum(benchmark.lengths[8:])


def test_updates_that_trls_batches_do_not_divide_are_refused_in_a_sentence(arguments):
    given = [f"{name}={value}" for name, value in (arguments | {"variants": "trl", "tuples": 12}).items()]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, BENCHMARK, *given], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: tuples=12: TRL's batches of 8 must divide an update"
