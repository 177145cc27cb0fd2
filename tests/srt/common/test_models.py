"""Checks of the machine before anything is loaded."""

import pytest
import torch

from srt.common.errors import UserError
from srt.common.models import check_gpu, present_gpus

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


@pytest.mark.parametrize("value", ["", " ", "-1"])
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
    assert "device: CPU (2 GPU present, but this environment's torch" in capsys.readouterr().out


def test_the_control_device_of_the_driver_is_no_gpu():
    assert all(path.removeprefix("/dev/nvidia").isdigit() for path in present_gpus())
    if torch.cuda.is_available():
        assert present_gpus()


@pytest.mark.parametrize("entry_point", ["collect", "evaluate", "sft", "distill"])
def test_every_entry_point_that_samples_or_trains_checks_it(machine, tiny_checkpoint, entry_point):
    from opsd.distill import distill
    from srt.collect.run import collect
    from srt.evaluate import evaluate
    from srt.sft.run import train

    machine()
    arguments = {"collect": [], "evaluate": [f"model_path={tiny_checkpoint}"], "sft": [], "distill": []}
    main = {"collect": collect, "evaluate": evaluate, "sft": train, "distill": distill}[entry_point]
    with pytest.raises(UserError, match="a GPU is present"):
        main(arguments[entry_point])
