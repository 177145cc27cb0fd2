"""Code that comes with a model: refused in one sentence, run with TRUST_REMOTE_CODE=1, and never unasked."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from srt.common.errors import UserError
from srt.common.models import (
    check_saving,
    context_limit,
    load_model,
    load_model_config,
    load_tokenizer,
    model_without_weights,
    stored_dtype,
)
from srt.common.remote_code import VARIABLE, allow_remote_code

CODE = """
import os
from transformers import Qwen3Config, Qwen3ForCausalLM
open(os.environ["EVIDENCE"], "a").write("it ran ")

class OwnConfig(Qwen3Config):
    model_type = "{model_type}"

class OwnModel(Qwen3ForCausalLM):
    config_class = OwnConfig
"""
# What NeMo-RL's workers do, in a process like theirs.
ELSEWHERE = """
import sys
from srt.common.remote_code import enforce_remote_code
enforce_remote_code()
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
config = AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True, config=config)
empty = AutoModelForCausalLM.from_config(config, trust_remote_code=True)
AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
print(type(model).__name__, type(empty).__name__)
"""


@pytest.fixture(autouse=True)
def evidence(tmp_path, monkeypatch):
    """The file to which the model's code writes; modules that transformers copies stay in this test."""
    path = tmp_path / "evidence"
    monkeypatch.setenv("EVIDENCE", str(path))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setenv(VARIABLE, "0")
    monkeypatch.setattr(sys, "path", [*sys.path])
    return path


@pytest.fixture
def with_code(tiny_checkpoint, tmp_path):
    """with_code("own"): a checkpoint with code of its own, of a type that only this code knows ("qwen3": that
    transformers knows, too)."""

    def make(model_type: str):
        folder = shutil.copytree(tiny_checkpoint, tmp_path / model_type)
        (folder / "own_code.py").write_text(CODE.format(model_type=model_type))
        config = json.loads((folder / "config.json").read_text())
        names = {"AutoConfig": "own_code.OwnConfig", "AutoModelForCausalLM": "own_code.OwnModel"}
        (folder / "config.json").write_text(json.dumps(config | {"model_type": model_type, "auto_map": names}))
        return str(folder)

    return make


LOADERS = {
    "config": load_model_config,
    "tokenizer": load_tokenizer,
    "model": load_model,
    "context limit": context_limit,
    "dtype": stored_dtype,
    "dry save": lambda path: check_saving(path, None, [0]),
}


@pytest.mark.parametrize("what", sorted(LOADERS.keys() - {"tokenizer"}))
def test_a_model_that_needs_it_is_refused_by_the_knobs_name(with_code, evidence, what):
    folder = with_code("own")
    with pytest.raises(UserError, match=f"^{folder}: its .* runs only with TRUST_REMOTE_CODE=1") as caught:
        LOADERS[what](folder)
    assert "\n" not in str(caught.value)
    assert not evidence.exists()


def test_with_the_knob_it_runs(with_code, evidence):
    folder = with_code("own")
    allow_remote_code(True)
    assert type(load_model(folder)).__name__ == "OwnModel"
    assert load_tokenizer(folder).eos_token
    assert type(model_without_weights(load_model_config(folder))).__name__ == "OwnModel"
    assert evidence.read_text() and context_limit(folder) and stored_dtype(folder)


def test_without_it_a_model_that_transformers_knows_runs_transformers_code(with_code, evidence):
    folder = with_code("qwen3")
    load_tokenizer(folder)
    assert type(load_model(folder)).__name__ == "Qwen3ForCausalLM"
    assert not evidence.exists()


def elsewhere(folder: str, allowed: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), VARIABLE: allowed}
    command = [sys.executable, "-c", ELSEWHERE, folder]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_libraries_that_always_trust_do_not_run_it(with_code, evidence):
    """And they would: without `enforce_remote_code`, the same calls run the model's code."""
    folder = with_code("qwen3")
    assert elsewhere(folder, "0").stdout.split() == ["Qwen3ForCausalLM"] * 2
    assert not evidence.exists()
    refused = elsewhere(with_code("own"), "0")
    assert refused.returncode and "trust_remote_code" in refused.stderr
    assert not evidence.exists()
    assert elsewhere(folder, "1").stdout.split() == ["OwnModel"] * 2
    assert evidence.exists()


def test_every_script_has_the_knob_and_it_is_off():
    from opsd.config import DistillConfig
    from srt.collect.config import CollectConfig
    from srt.config import load_config
    from srt.evaluation.config import EvaluateConfig
    from srt.sft.config import SftConfig

    scripts = {"sft": SftConfig, "srt_data": CollectConfig, "evaluate": EvaluateConfig, "distill": DistillConfig}
    for script, schema in scripts.items():
        assert load_config(schema, script, []).trust_remote_code is False
        assert load_config(schema, script, ["TRUST_REMOTE_CODE=1"]).trust_remote_code is True


def test_the_engine_of_vllm_is_told(tiny_checkpoint):
    from srt.sampling.vllm_common import did_not_start, engine_arguments

    options = {"on_gpu": False, "max_model_len": 8, "max_batch": 1, "dtype": "auto", "memory_utilization": 0.5}
    for allowed in (True, False):
        allow_remote_code(allowed)
        arguments = engine_arguments(str(tiny_checkpoint), **options, tensor_parallel_size=1, seed=0)
        assert arguments["trust_remote_code"] is allowed
    assert "TRUST_REMOTE_CODE=1" in str(did_not_start("model", ValueError("pass trust_remote_code=True")))
