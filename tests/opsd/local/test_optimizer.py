"""The optimizer's settings by their effect: trained weights against AdamW written out in float64."""

from functools import partial

import pytest
import torch
from transformers import AutoModelForCausalLM

from opsd.pairs import build_pair
from srt.common.models import load_model
from tests.opsd.helpers.problems import PROBLEMS
from tests.opsd.helpers.updates import papers_loss
from tests.srt.helpers.adapters import ALPHA, RANK, fill_adapters, merged_by_hand
from tests.srt.helpers.reference_adamw import KNOBS, PEAK, TOTAL_UPDATES, assert_trained_with_settings


@pytest.fixture(scope="module")
def updates(make_rollout):
    """The responses of three updates."""
    return [
        [make_rollout("A 1 + 1 = 2", r=1), make_rollout("7", r=0)],
        [make_rollout("\\boxed{3}", r=0, x="x = 5 [A] * 3")],
        [make_rollout("A 4 -", r=0, x="x = 4", finish_reason="length")],
    ]


def test_three_updates_are_adamw_with_every_setting_of_the_knobs(
    open_run, tiny_checkpoint, other_checkpoint, layout, updates
):
    settings = KNOBS | {"lr": PEAK, "warmup_steps": 1, "max_num_steps": TOTAL_UPDATES}
    opened = open_run(tiny_checkpoint, PROBLEMS, teacher=other_checkpoint, **settings)
    for rollouts in updates:
        opened.engine.optimizer_step.run([build_pair(rollout, layout, 1000) for rollout in rollouts])
    teacher = load_model(str(other_checkpoint), "float64", "cpu")

    def loss(student, rollouts):
        return papers_loss(student, teacher, rollouts, layout.tokenizer)[0]

    assert_trained_with_settings(
        {name: p.detach() for name, p in opened.engine.student.model.named_parameters()},
        lambda: load_model(str(tiny_checkpoint), "float64", "cpu"),
        [partial(loss, rollouts=rollouts) for rollouts in updates],
    )


def test_updates_that_bf16_would_round_away_are_kept(
    open_run, tiny_checkpoint, other_checkpoint, layout, updates, tmp_path
):
    """The weights in training are fp32, whatever the checkpoint stores."""
    stored = tmp_path / "bf16"
    AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.bfloat16).save_pretrained(stored)
    opened = open_run(stored, PROBLEMS, teacher=other_checkpoint, lr=1e-6)
    weight = opened.engine.student.model.model.layers[0].mlp.up_proj.weight
    before = weight.detach().clone()
    opened.engine.optimizer_step.run([build_pair(rollout, layout, 1000) for rollout in updates[0]])
    moved = (weight.detach() - before).abs()
    assert moved.max() == pytest.approx(1e-6, rel=0.05)  # Adam's first update: the rate itself
    assert (before.bfloat16() == weight.bfloat16()).float().mean() > 0.9  # bf16 would not have shown it


def test_an_adapter_adds_alpha_over_rank_times_its_product(open_run, tiny_checkpoint, tmp_path):
    student = open_run(tiny_checkpoint, PROBLEMS, lora_rank=RANK, lora_alpha=ALPHA).engine.student
    fill_adapters(student.adapter)
    base = dict(load_model(str(tiny_checkpoint), "float32").named_parameters())
    expected = merged_by_hand(student.adapter, {name: weight.detach() for name, weight in base.items()})
    torch.testing.assert_close({name: weight.detach() for name, weight in student.named_weights()}, expected)
    student.export(tmp_path / "merged", torch.float32)
    exported = dict(load_model(str(tmp_path / "merged"), "float32").named_parameters())
    torch.testing.assert_close({name: weight.detach() for name, weight in exported.items()}, expected)
