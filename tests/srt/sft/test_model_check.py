"""The check of the base model by a process that launches others: where it runs, and what it reports."""

import os

import pytest

import srt.sft.model_check
from srt.common.errors import UserError
from srt.common.machine import Machine
from srt.config import load_config
from srt.sft.config import SftConfig
from srt.sft.model_check import check_model, check_model_before_launch

ROOMY, TIGHT, NO_GPU = Machine(2, 10**12, None), Machine(2, 10**6, None), Machine(0, None, None)


@pytest.fixture
def config(tiny_checkpoint) -> SftConfig:
    return load_config(SftConfig, "sft", [f"base_model={tiny_checkpoint}", "packing=1"])


@pytest.fixture
def loaded_here(monkeypatch) -> list[str | None]:
    """The devices to which models are loaded in this process."""
    devices = []
    load = srt.sft.model_check.load_model

    def note(path: str, dtype: str, device: str | None):
        devices.append(device)
        return load(path, dtype, device)

    monkeypatch.setattr("srt.sft.model_check.load_model", note)
    return devices


def test_a_model_that_fits_a_gpu_is_tried_in_another_process(config, loaded_here):
    assert check_model_before_launch(config, 100, ROOMY) == check_model(config, 100)
    assert loaded_here == [None]  # of the second call


@pytest.mark.parametrize("machine", [TIGHT, NO_GPU], ids=["too large for a GPU", "no GPU"])
def test_any_other_is_tried_here_on_the_cpu(config, loaded_here, machine):
    assert check_model_before_launch(config, 100, machine).packed
    assert loaded_here == ["cpu"]


def test_what_the_other_process_refuses_is_refused_in_the_same_words(tmp_path, config):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_bytes(open(f"{config.base_model}/config.json", "rb").read())
    broken = load_config(SftConfig, "sft", [f"base_model={tmp_path / 'empty'}"])
    with pytest.raises(UserError) as expected:
        check_model(broken, 100)
    with pytest.raises(UserError) as found:
        check_model_before_launch(broken, 100, ROOMY)
    assert str(found.value) == str(expected.value)


def run_out_of_memory(*_) -> None:
    os._exit(9)


def test_a_process_that_was_ended_is_one_sentence(config, monkeypatch):
    monkeypatch.setattr("srt.sft.model_check.check_model", run_out_of_memory)
    with pytest.raises(UserError, match=r"launch was ended \(.*\), most likely because memory ran out"):
        check_model_before_launch(config, 100, ROOMY)
