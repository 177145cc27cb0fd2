"""Several training processes: one of them reads the checkpoint, and all train as one process would."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen3Config, Qwen3ForCausalLM

from quickstart.tokenizer import build_tokenizer

HELPER = Path(__file__).parents[1] / "helpers" / "sft_ranks.py"
BYTES = 4 * 60_000 * 512  # of the embeddings, which are nearly the whole model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """With much larger weights than anything else that a process allocates while it loads them."""
    folder = tmp_path_factory.mktemp("large") / "model"
    torch.manual_seed(0)
    shape = {"hidden_size": 512, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = Qwen3Config(vocab_size=60_000, intermediate_size=64, head_dim=16, **shape)
    config.tie_word_embeddings = True
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)  # so that fp32 weights are made anew
    build_tokenizer().save_pretrained(folder)
    return folder


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def train(checkpoint, out, processes, resumed=False, **settings):
    """What each rank says."""
    out.mkdir(exist_ok=True)
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={free_port()}"]
    command = [sys.executable, *(launcher if processes > 1 else []), HELPER, checkpoint, out, str(int(resumed))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"} | settings
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500)
    assert result.returncode == 0, result.stderr[-3000:]
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(processes)]


def assert_same_weights(out, other):
    actual, expected = (load_file(folder / "weights.safetensors") for folder in (out, other))
    assert actual.keys() == expected.keys()
    for name in actual:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("adapters", [0, 4])
def test_rank_0_reads_the_weights_and_the_others_train_the_same(checkpoint, tmp_path, adapters):
    settings = {"RANK_OF_ADAPTERS": str(adapters)}
    one, two = tmp_path / "one", tmp_path / "two"
    (alone,) = train(checkpoint, one, 1, **settings)
    first, second = train(checkpoint, two, 2, **settings)
    assert first["loaded"] > 0.8 * BYTES and alone["loaded"] > 0.8 * BYTES
    assert second["loaded"] < 0.2 * BYTES
    assert not any(said["cudnn"] for said in (alone, first, second))  # its gradients are NaN for some lengths
    for actual, expected in zip(first["losses"], alone["losses"], strict=True):
        assert actual == pytest.approx(expected, rel=1e-4)
    assert_same_weights(two, one)
    # Continued from what was trained, as from a checkpoint.
    before = alone["losses"]
    (alone,) = train(checkpoint, one, 1, resumed=True, **settings)
    first, second = train(checkpoint, two, 2, resumed=True, **settings)
    assert second["loaded"] < 0.2 * BYTES and first["loaded"] < 1.8 * BYTES
    for actual, expected in zip(first["losses"], alone["losses"], strict=True):
        assert actual == pytest.approx(expected, rel=1e-3)
    assert alone["losses"] != before
