"""The identity of a model is its content."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from srt.common import weight_files
from srt.common.errors import UserError
from srt.contract.model_identity import folder_name, model_identity


@pytest.fixture
def checkpoint(tiny_checkpoint, tmp_path) -> Path:
    return shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")


@pytest.mark.parametrize("way", ["copy", "touch", "relative", "slash", "link"])
def test_the_same_content_is_the_same_model(checkpoint, tmp_path, monkeypatch, way):
    before = model_identity(str(checkpoint))
    monkeypatch.chdir(tmp_path)
    if way == "touch":
        for path in checkpoint.iterdir():
            os.utime(path, (1, 1))
    if way == "link":
        (tmp_path / "link").symlink_to(checkpoint)
    ways = {
        "copy": shutil.copytree(checkpoint, tmp_path / "elsewhere"),
        "relative": "checkpoint",
        "slash": f"{checkpoint}/",
        "link": tmp_path / "link",
    }
    assert model_identity(str(ways.get(way, checkpoint))) == before


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"]
)
def test_another_content_of_the_same_size_and_time_is_another_model(checkpoint, name):
    before = model_identity(str(checkpoint))
    path = checkpoint / name
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert model_identity(str(checkpoint)) != before


def test_a_new_shard_makes_another_model_and_records_do_not(checkpoint):
    before = model_identity(str(checkpoint))
    for record in ("train.log", "sd_zero.json", "training_log.json"):
        (checkpoint / record).write_text('{"made": "elsewhere"}')
    assert model_identity(str(checkpoint)) == before
    shutil.copyfile(checkpoint / "model.safetensors", checkpoint / "model-00002.safetensors")
    assert model_identity(str(checkpoint)) != before


def test_a_hub_id_is_its_own_identity():
    assert model_identity("Qwen/Qwen3-4B-Instruct-2507") == "Qwen/Qwen3-4B-Instruct-2507"


def test_weights_with_nan_are_refused(checkpoint):
    weights = load_file(checkpoint / "model.safetensors")
    weights["model.norm.weight"][3] = torch.nan
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"model.safetensors: its tensor model.norm.weight contains NaN"):
        model_identity(str(checkpoint))


def test_large_files_are_read_once_and_again_when_they_change(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(weight_files, "REMEMBERED_FROM", 1000)
    weights = checkpoint / "model.safetensors"
    first = weight_files.inspect_weights([weights])
    cache = tmp_path / "cache" / "sd_zero" / "weight_files.json"
    sha256 = first[weights].sha256
    cache.write_text(cache.read_text().replace(sha256, "remembered"))
    assert weight_files.inspect_weights([weights])[weights].sha256 == "remembered"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert weight_files.inspect_weights([weights])[weights].sha256 not in ("remembered", sha256)
    cache.write_text("[half")
    assert len(weight_files.inspect_weights([weights])[weights].sha256) == 64


def test_folder_names_tell_models_and_settings_apart(checkpoint, tmp_path):
    for name in ("stage2", "student"):
        shutil.copytree(checkpoint, tmp_path / "run" / name)
    settings = {"dataset": "a", "num_samples": 8}
    name = folder_name(str(checkpoint), settings)
    assert name.startswith("checkpoint_") and len(name) == len("checkpoint_") + 8
    assert folder_name(f"{checkpoint}/", dict(reversed(settings.items()))) == name
    assert folder_name(str(checkpoint), settings | {"num_samples": 4}) != name
    assert folder_name(str(tmp_path / "run" / "stage2"), settings).startswith("run_stage2_")
    assert folder_name("Qwen/Qwen3-4B-Instruct-2507", settings).startswith("Qwen3-4B-Instruct-2507_")
