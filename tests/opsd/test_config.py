"""The knobs of Phase 2: what is refused, and how they become the loss's options."""

import pytest

from opsd.config import check, identity, kl_config
from opsd.kl import KLConfig
from srt.common.errors import UserError


def test_defaults_are_the_loss_of_the_paper(make_config):
    assert kl_config(make_config()) == KLConfig("reverse", temperature=1.0, topk=0)


@pytest.mark.parametrize("kind", ["reverse", "forward", "mixed", "jsd"])
def test_every_loss_knob_reaches_the_options(make_config, kind):
    config = make_config(kl_type=kind, mixed_kl_weight=0.3, jsd_beta=0.2, kl_temperature=1.5, topk=64)
    assert kl_config(config) == KLConfig(kind, mixed_weight=0.3, jsd_beta=0.2, temperature=1.5, topk=64)


def test_defaults_are_accepted_without_a_note(make_config, capsys):
    check(make_config())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "knob",
    [
        "kl_type=mixed",
        "topk=64",
        "kl_temperature=2",
        "kl_clip=1",
        "loss_on=r0",
        "reward_weight=1",
        "srt_replay=0.1",
    ],
)
def test_another_loss_than_the_papers_is_said(make_config, capsys, knob):
    name, value = knob.split("=")
    check(make_config(**{name: value}))
    assert "is not the loss of the paper's equation" in capsys.readouterr().out


@pytest.mark.parametrize(("prompts", "batch"), [(128, 100), (4, 8)])
def test_a_step_that_is_no_whole_number_of_updates_is_refused(make_config, prompts, batch):
    with pytest.raises(UserError) as error:
        check(make_config(num_prompts_per_step=prompts, train_global_batch_size=batch))
    assert f"TRAIN_GLOBAL_BATCH_SIZE={batch} does not divide NUM_PROMPTS_PER_STEP={prompts}" in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"teacher_sync_steps": 5},
            "TEACHER_SYNC_STEPS=5 has no effect with TEACHER_SYNC=none; set TEACHER_SYNC=steps",
        ),
        ({"teacher_sync": "plateau", "teacher_sync_epochs": 2}, "set TEACHER_SYNC=epochs"),
        ({"teacher_sync": "steps"}, "TEACHER_SYNC=steps: TEACHER_SYNC_STEPS must say how many steps"),
        ({"teacher_sync": "plateau", "val_period": 0}, "needs VAL_PERIOD above 0 (it is 0)"),
        ({"teacher_sync": "plateau", "val_revise": 0}, "VAL_REVISE=1 (it is 0)"),
        ({"teacher_sync": "plateau", "teacher_model": "another"}, "not TEACHER_MODEL=another"),
        ({"reward_weight": 0.5, "loss_on": "r0"}, "LOSS_ON=r0 leaves right responses out"),
        ({"reward_weight": 0.5, "over_issue": 0.25}, "OVER_ISSUE=0.25 trains on tokens of earlier weights"),
        ({"reward_weight": 0.5, "rollout_ahead": 1}, "ROLLOUT_AHEAD=1 trains on tokens of earlier weights"),
        ({"rollout_ahead": 1, "over_issue": 0.25}, "OVER_ISSUE=0.25 and ROLLOUT_AHEAD=1: with one of them"),
        ({"stop_on_collapse": 0.1, "val_period": 0}, "STOP_ON_COLLAPSE=0.1 compares validations"),
        ({"lora_rank": 8, "teacher_model": "another"}, "LORA_RANK=8: the teacher is then the student"),
    ],
    ids=lambda x: "" if isinstance(x, str) else next(iter(x)),
)
def test_knobs_that_contradict_each_other_are_refused(make_config, settings, message):
    with pytest.raises(UserError) as error:
        check(make_config(student_model="a model", **settings))
    assert message in str(error.value)


@pytest.mark.parametrize("knob", ["val_period=10", "val_max_tokens=100", "val_temperature=0.5", "val_top_p=0.9"])
@pytest.mark.parametrize("decides", [{}, {"stop_on_collapse": 0.1}, {"teacher_sync": "plateau"}], ids=str)
def test_validation_is_part_of_what_a_run_is_only_when_it_decides_something(make_config, decides, knob):
    one, other = (identity(make_config(**decides, **more)) for more in ({}, dict([knob.split("=")])))
    assert (one == other) == (not decides)
    assert "lr" in one and "output_dir" not in one


def test_how_many_launches_the_kl_takes_is_not_part_of_what_a_run_is(make_config):
    one, other = (make_config(kl_single_pass=switch) for switch in (0, 1))
    assert [kl_config(config).single_pass for config in (one, other)] == [False, True]
    assert identity(one) == identity(other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kl_type": "backward"}, "KL_TYPE=backward: expected one of reverse, forward, mixed, jsd"),
        ({"mixed_kl_weight": 1.5}, "MIXED_KL_WEIGHT=1.5: must be at most 1"),
        ({"over_issue": 1.5}, "OVER_ISSUE=1.5: must be at most 1"),
        ({"rollout_gpus": -1}, "ROLLOUT_GPUS=-1: must be at least 0"),
        ({"topk": -1}, "TOPK=-1: must be at least 0"),
        ({"kl_temperature": 0}, "KL_TEMPERATURE=0"),
        ({"jsd_beta": 1}, "JSD_BETA=1"),
        ({"lr": "fast"}, "LR=fast: expected a number"),
        ({"teacher_sync": 5}, "TEACHER_SYNC=5: expected one of none, steps, epochs, plateau"),
        ({"teacher_sync_step": 5}, "did you mean teacher_sync_steps?"),
    ],
    ids=lambda x: "" if isinstance(x, str) else next(iter(x)),
)
def test_bad_values_are_refused_by_name(make_config, settings, message):
    with pytest.raises(UserError) as error:
        make_config(**settings)
    assert message in str(error.value)
