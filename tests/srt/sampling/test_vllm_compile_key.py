"""Checkpoints of one architecture share what vLLM compiles; everything else that is in its key stays there."""

import json
import os
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def key():
    """path, options -> vLLM's key of a ModelConfig in this process."""
    from vllm.config import ModelConfig

    import srt.sampling.vllm_compile_key  # noqa: F401

    def key(path, **options) -> str:
        config = ModelConfig(str(path), **{"max_model_len": 64, "dtype": "float32"} | options)
        key, text = config.compute_hash(), repr(config)
        assert config.compute_hash() == key and repr(config) == text and config.model == str(path)
        return key

    return key


def changed(checkpoint, folder, **values):
    """A copy of the checkpoint in another folder, with these values in its config."""
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text()) | values
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_another_checkpoint_of_the_same_architecture_has_the_same_key(key, tiny_checkpoint, tmp_path):
    elsewhere = changed(tiny_checkpoint, tmp_path / "elsewhere", transformers_version="4.57.0")
    assert key(elsewhere) == key(tiny_checkpoint)


@pytest.mark.parametrize("values", [{"rope_theta": 500.0, "rope_parameters": None}, {"rms_norm_eps": 0.5}])
def test_another_config_has_another_key(key, tiny_checkpoint, tmp_path, values):
    assert key(changed(tiny_checkpoint, tmp_path / "other", **values)) != key(tiny_checkpoint)


def test_what_the_engine_is_asked_for_stays_in_the_key(key, tiny_checkpoint):
    assert (
        len({key(tiny_checkpoint), key(tiny_checkpoint, max_model_len=32), key(tiny_checkpoint, dtype="half")})
        == 3
    )


ENGINE = """
import sys
from srt.sampling.base import SamplingConfig
from srt.sampling.vllm_inprocess import VllmSampler

def module_of_key(worker):
    return type(worker.model_config).compute_hash.__module__

sampler = VllmSampler(sys.argv[1], SamplingConfig(1.0, 1.0, (0,)), max_model_len=64, max_batch=2)
print(sampler.engine.collective_rpc(module_of_key))
"""


def test_an_engine_has_that_key_in_its_worker(tiny_checkpoint):
    command = [sys.executable, "-c", ENGINE, str(tiny_checkpoint)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "['srt.sampling.vllm_compile_key']"
