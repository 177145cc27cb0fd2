"""The student that comes out of a sharded run is the folder that the local engine would have written."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from opsd.nemo_rl.worker.hf_export import save_hf_model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_weights_are_there_in_the_precision_asked_for(tiny_checkpoint, other_checkpoint, tmp_path, dtype):
    trained = AutoModelForCausalLM.from_pretrained(other_checkpoint, dtype=torch.float32)
    save_hf_model(trained.state_dict(), str(tiny_checkpoint), dtype, tmp_path / "student")
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "student")  # in the precision that it says it has
    assert written.dtype == dtype
    for name, weight in trained.state_dict().items():
        assert torch.equal(written.state_dict()[name], weight.to(dtype)), name


def test_config_and_generation_config_are_those_of_the_model_it_started_from(tiny_checkpoint, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    save_hf_model(model.state_dict(), str(tiny_checkpoint), torch.float32, tmp_path / "student")
    for name in ("config.json", "generation_config.json"):
        found = json.loads((tmp_path / "student" / name).read_text())
        assert found == json.loads((tiny_checkpoint / name).read_text())


def test_a_model_on_the_hub_needs_no_generation_config(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    cached, commit = tmp_path / "hub" / "models--some--model", "0" * 40
    shutil.copytree(tiny_checkpoint, cached / "snapshots" / commit)
    (cached / "snapshots" / commit / "generation_config.json").unlink()
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    save_hf_model(model.state_dict(), "some/model", torch.float32, tmp_path / "student")
    assert (tmp_path / "student" / "model.safetensors").is_file()


def test_a_weight_that_is_missing_is_named(tiny_checkpoint, tmp_path):
    weights = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32).state_dict()
    del weights["model.norm.weight"]
    with pytest.raises(ValueError, match="model.norm.weight"):
        save_hf_model(weights, str(tiny_checkpoint), torch.float32, tmp_path / "student")
