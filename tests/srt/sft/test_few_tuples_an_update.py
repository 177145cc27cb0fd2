"""Updates of a few tuples: the same ones on one and on two processes, also with fewer tuples than processes."""

import math

import pytest
import torch
from safetensors.torch import load_file

import srt.sft.trainer
from srt.common.files import read_json
from srt.contract.layout import TokenSequence
from srt.sft.plan import FEW_UPDATES, Stage
from tests.srt.helpers.sft_updates import log_of

COMPARED = ("step", "loss", "grad_norm", "learning_rate", "entropy", "mean_token_accuracy")


@pytest.mark.parametrize("tuples", [4, 3, 1])
def test_one_and_two_processes_make_the_same_updates(run_train, tmp_path, tuples):
    """Padded on one process, packed on two: with 3 tuples one process has fewer, with 1 one has none."""
    knobs = [f"tuples_per_update={tuples}", "epochs_stage2=0.5"]
    one = run_train(*knobs, f"output_dir={tmp_path / 'one'}")
    two = run_train(
        *knobs, "num_processes=2", "packing=1", "max_tokens_per_pass=100", f"output_dir={tmp_path / 'two'}"
    )
    for stage, epochs in (("stage1", 1), ("stage2", 0.5)):
        actual, expected = log_of(two / stage), log_of(one / stage)
        assert len(actual) == len(expected) == math.ceil(epochs * math.ceil(12 / tuples))
        for entry, expected_entry in zip(actual, expected, strict=True):
            values, expected_values = ([e[key] for key in COMPARED] for e in (entry, expected_entry))
            assert values == pytest.approx(expected_values, rel=1e-4)
        weights, expected_weights = (load_file(folder / stage / "model.safetensors") for folder in (two, one))
        for name in expected_weights:
            # Where a gradient is almost 0, Adam turns its rounding into a step of up to the learning rate.
            torch.testing.assert_close(weights[name], expected_weights[name], rtol=0, atol=1e-3)
            same = torch.isclose(weights[name], expected_weights[name], rtol=1e-3, atol=1e-5)
            assert same.float().mean() > 0.999
        metadata = read_json(two / stage / "sd_zero.json")
        assert (metadata["tuples_per_update"], metadata["updates"]) == (tuples, len(actual))


def test_an_update_runs_no_more_passes_than_its_own_tuples_need(run_train, monkeypatch):
    """The longest update decides how many the Trainer counts; the others skip theirs."""
    passes = []
    real = srt.sft.trainer.PackedSFTTrainer.compute_loss

    def compute_loss(self, model, inputs, *args, **kwargs):
        passes.append(inputs["input_ids"].shape[1])
        return real(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr("srt.sft.trainer.PackedSFTTrainer.compute_loss", compute_loss)
    out = run_train("packing=1", "tuples_per_update=5", "max_tokens_per_pass=200", "epochs_stage2=0.01")
    assert len(log_of(out / "stage1")) == 3  # of 5, 5 and 2 tuples of more than 70 tokens: 3, 3 and 1 passes
    assert len(passes) == 3 + 3 + 1 + 3
    assert all(entry["num_tokens"] > 0 for entry in log_of(out / "stage1"))
    assert log_of(out / "stage1")[-1]["num_tokens"] == sum(passes[:7])


def test_the_optimizer_is_one_fused_kernel(run_train, monkeypatch):
    trainers = []
    real = srt.sft.trainer.PackedSFTTrainer

    def keep(*args, **kwargs):
        trainers.append(real(*args, **kwargs))
        return trainers[-1]

    monkeypatch.setattr("srt.sft.trainer.PackedSFTTrainer", keep)
    run_train("epochs_stage1=0.1", "epochs_stage2=0.1", "adam_beta2=0.9")
    optimizer = trainers[0].optimizer.optimizer
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["fused"] and optimizer.defaults["betas"] == (0.9, 0.9)


def stage(num_tuples, epochs, revision_starts=None, number=1, lr=1e-5):
    sequences = [TokenSequence([1, 2], 1)] * num_tuples
    return Stage(number, "", sequences, revision_starts, list(range(num_tuples)), [], epochs, lr, "", {})


def test_the_papers_tuples_make_3000_updates():
    assert stage(4000, 3).count_updates(4) == 3000
    assert stage(4000, 3).few_updates(4) is None


def test_few_updates_are_a_warning_that_says_what_to_change(run_train, capsys):
    assert stage(FEW_UPDATES, 1).few_updates(1) is None
    warning = stage(700, 3, number=2).few_updates(64)
    assert warning == (
        "stage 2 makes 33 updates (700 tuples, 3 epochs, 64 tuples an update); below about 200 a model hardly "
        "changes at the usual learning rates: collect more tuples, raise EPOCHS_STAGE2, or lower TUPLES_PER_UPDATE"
    )
    assert stage(700, 3, lr=1e-4).few_updates(64) and not stage(700, 3, lr=3e-4).few_updates(64)
    assert "(700 tuples, 1 epoch, 64" in str(stage(700, 1).few_updates(64))
    assert "raise EPOCHS_STAGE1," in str(stage(700, 3, revision_starts=[1] * 700, number=2).few_updates(64))
    run_train("epochs_stage1=0.1", "epochs_stage2=0.5", "lr_stage1=1e-4", "lr_stage2=1e-4")
    printed = capsys.readouterr().out
    assert (
        "\n1 update of 4 tuples, each in at most 4 padded passes on 1 process\nwarning: stage 1 makes 1" in printed
    )
    assert "warning: stage 2 makes 2 updates (12 tuples, 0.5 epochs, 4 tuples an update)" in printed
