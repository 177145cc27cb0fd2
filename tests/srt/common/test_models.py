"""Checks of machine and model before anything is trained or sampled."""

import importlib.util
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from srt.common.errors import UserError
from srt.common.models import (
    check_gpu,
    check_reporter,
    check_saving,
    check_weights,
    load_tokenizer,
    present_gpus,
)

TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040).\nPlease update it."


@pytest.fixture
def machine(monkeypatch):
    """machine(...): GPUs that are present, a torch build, and what torch says when it is to use them."""

    def fail(error):
        raise error

    def set_up(gpus=("/dev/nvidia0",), cuda="13.0", available=False, error=None):
        monkeypatch.setattr("srt.common.models.present_gpus", lambda: list(gpus))
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
        monkeypatch.setattr(torch.cuda, "init", lambda: fail(error or RuntimeError(TOO_OLD)))

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return set_up


def test_a_gpu_that_torch_cannot_use_is_an_error_with_its_reason(machine):
    machine()
    with pytest.raises(UserError) as caught:
        check_gpu()
    message = str(caught.value)
    for part in ("/dev/nvidia0", "driver on your system is too old (found version 11040)", "CUDA 13.0"):
        assert part in message
    assert "CUDA_VISIBLE_DEVICES= (empty) runs on the CPU" in message and "\n" not in message


def test_visible_devices_that_do_not_exist_are_an_error(machine, monkeypatch):
    machine(error=RuntimeError("No CUDA GPUs are available"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with pytest.raises(UserError, match="No CUDA GPUs are available"):
        check_gpu()


@pytest.mark.parametrize("value", ["", " ", "-1", "NoDevFiles"])
def test_the_cpu_can_be_asked_for(machine, monkeypatch, capsys, value):
    machine()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    check_gpu()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("setting", [{"available": True}, {"gpus": ()}, {"gpus": (), "cuda": None}])
def test_a_gpu_that_works_and_a_machine_without_one_are_fine(machine, capsys, setting):
    machine(**setting)
    check_gpu()
    assert capsys.readouterr().out == ""


def test_a_torch_build_for_cpus_says_that_it_leaves_the_gpu_alone(machine, capsys):
    machine(gpus=("/dev/nvidia0", "/dev/nvidia1"), cuda=None)
    check_gpu()
    assert "leaves /dev/nvidia0, /dev/nvidia1 alone" in capsys.readouterr().out


def test_the_control_device_of_the_driver_is_no_gpu():
    assert all(path.removeprefix("/dev/nvidia").isdigit() for path in present_gpus())
    if torch.cuda.is_available():
        assert present_gpus()


@pytest.mark.parametrize("entry_point", ["collect", "evaluate", "sft", "distill"])
def test_every_entry_point_that_samples_or_trains_checks_it(machine, tiny_checkpoint, entry_point):
    from opsd.distill import distill
    from srt.collect.run import collect
    from srt.evaluation.run import evaluate
    from srt.sft.run import train

    machine()
    arguments = {"collect": [], "evaluate": [f"model_path={tiny_checkpoint}"], "sft": [], "distill": []}
    main = {"collect": collect, "evaluate": evaluate, "sft": train, "distill": distill}[entry_point]
    with pytest.raises(UserError, match="a GPU is present"):
        main(arguments[entry_point])


# Logs -----------------------------------------------------------------------------------------------------


@pytest.fixture
def without_packages(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


@pytest.mark.parametrize("report_to", ["wandb", "trackio", "tensorboard"])
def test_a_logger_that_is_not_installed_is_one_sentence(without_packages, report_to):
    with pytest.raises(UserError, match=f"REPORT_TO={report_to}: the package {report_to} is not installed"):
        check_reporter(report_to)


def test_loggers_that_are_installed_or_not_asked_for_are_fine(monkeypatch):
    check_reporter("tensorboard")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_reporter("none")


@pytest.mark.parametrize("report_to", ["wandb", "trackio"])
def test_sft_says_it_before_anything_is_loaded(monkeypatch, report_to):
    from srt.sft.run import train

    monkeypatch.setattr("srt.sft.plan.check_gpu", lambda: None)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == report_to else found(name))
    with pytest.raises(UserError, match=f"REPORT_TO={report_to}"):
        train([f"report_to={report_to}", "base_model=/no/such/model"])


# What a training must be able to save -------------------------------------------------------------------


@pytest.fixture
def checkpoint(tiny_checkpoint, tmp_path):
    return shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")


def check(checkpoint):
    check_saving(str(checkpoint), load_tokenizer(str(checkpoint)), [2, 0])


def test_a_model_that_can_be_saved_is_left_alone(checkpoint):
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    check(checkpoint)
    assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == before
    (checkpoint / "generation_config.json").unlink()
    check(checkpoint)


def test_a_generation_config_that_cannot_be_saved_is_refused_before_training(checkpoint):
    path = checkpoint / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"temperature": 0.6, "do_sample": False}))
    with pytest.raises(
        UserError, match=f"{checkpoint}: its generation config could be loaded and cannot be sav"
    ) as caught:
        check(checkpoint)
    assert "temperature" in str(caught.value) and "\n" not in str(caught.value)


def test_a_tokenizer_that_cannot_be_saved_is_refused_before_training(checkpoint, monkeypatch):
    tokenizer = load_tokenizer(str(checkpoint))
    tokenizer.init_kwargs["odd"] = object()  # no JSON
    with pytest.raises(
        UserError, match="its tokenizer with its chat template could be loaded and cannot be saved"
    ):
        check_saving(str(checkpoint), tokenizer, [2])


def test_weights_are_checked_by_their_names_and_shapes(tiny_checkpoint, tmp_path):
    check_weights(str(tiny_checkpoint))
    model = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    save_file(weights | {"model.norm.weight": torch.ones(3)}, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"of another shape than its config says: 1 \(the first: model.norm"):
        check_weights(str(model))
    del weights["model.norm.weight"]
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"tensors missing: 1 \(the first: model.norm.weight\)"):
        check_weights(str(model))
    content = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(content[:-100])
    with pytest.raises(UserError, match="its model could not be loaded"):
        check_weights(str(model))
