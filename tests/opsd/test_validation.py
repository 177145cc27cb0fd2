"""Validation's own sampling, and the share of what its limits cut off."""

import pytest

from opsd.run_log import validation_line
from srt.common.files import read_jsonl
from tests.opsd.helpers.problems import PROBLEMS, problem
from tests.opsd.helpers.runs import train_run

SETTINGS = {"max_total_sequence_length": 22, "max_num_steps": 1, "lr": 1e-60, "val_num_samples": 2}


@pytest.fixture
def validated(make_run, grader, reviser_checkpoint):
    """validated(**knobs) -> the run, and the line of the validation before its first step."""

    def run(**knobs):
        made = make_run(reviser_checkpoint, PROBLEMS, validation=PROBLEMS[:4], **(SETTINGS | knobs))
        train_run(made, grader)
        return made, read_jsonl(made.output_dir / "validation.jsonl")[0]

    return run


def test_validation_samples_as_training_does_unless_told_otherwise(make_run, coin_checkpoint):
    run = make_run(coin_checkpoint, PROBLEMS, validation=PROBLEMS, temperature=0.7, top_p=0.9)
    assert (run.validation.sampling, run.validation.max_total_tokens) == (run.sampling, run.max_total_tokens)
    assert run.sampling.temperature == 0.7


def test_a_response_of_validation_is_as_long_as_its_own_limit_allows(validated):
    """Every response of this model has six tokens or so; training has room for more."""
    _, whole = validated(folder="whole")
    assert whole["truncated"] == whole["revisions_truncated_r0"] == 0 < whole["revise_r0"]
    run, short = validated(folder="short", val_max_tokens=2)
    assert short["response_tokens"] == short["response_tokens_p90"] == 2
    assert short["truncated"] == short["revisions_truncated_r0"] == 1
    assert short["avg_at_k"] == short["revise_r0"] == 0  # cut off is wrong
    [step] = read_jsonl(run.output_dir / "metrics.jsonl")
    assert step["truncated"] == 0 and step["val_truncated"] == 1


def test_validation_may_be_longer_than_training(make_run, tiny_checkpoint, capsys):
    settings = {"validation": PROBLEMS, "max_total_sequence_length": 40}
    run = make_run(tiny_checkpoint, PROBLEMS, **settings, val_max_tokens=100)
    prompt, cue = (len(run.layout.chat(PROBLEMS[0].x)), max(len(run.layout.cue(r)) for r in (0, 1)))
    assert run.validation.max_total_tokens == prompt + 100
    assert run.max_model_len == run.validation.max_revision_tokens == prompt + 200 + cue
    assert (
        make_run(tiny_checkpoint, PROBLEMS, **settings, val_max_tokens=100, val_revise=0).max_model_len
        == prompt + 100
    )
    assert "validation with VAL_MAX_TOKENS" not in capsys.readouterr().out
    capped = make_run(tiny_checkpoint, PROBLEMS, **settings, val_max_tokens=1000)
    assert capped.max_model_len == capped.validation.max_total_tokens == 512  # the model's context
    assert "validation with VAL_MAX_TOKENS: " in capsys.readouterr().out


def test_temperature_and_top_p_of_validation_are_its_own(validated):
    """At temperature 1 this model says 7 or 8 by chance; greedily, or from its top token, always the same."""
    lines = {
        name: validated(folder=name, val_num_samples=8, **knobs)[1]
        for name, knobs in {"chance": {}, "greedy": {"val_temperature": 0}, "top": {"val_top_p": 1e-6}}.items()
    }
    assert 0.1 < lines["chance"]["avg_at_k"] < 0.9
    assert lines["greedy"] == lines["top"] != lines["chance"]
    assert lines["greedy"]["avg_at_k"] * 4 in (0, 1, 2, 3, 4)  # all samples of a problem are the same


def test_the_line_of_a_validation_says_what_was_cut_off(validated, capsys):
    validated(val_max_tokens=2)
    captured = capsys.readouterr()
    assert (
        "validation avg@2 0.0%, pass@2 0.0%, 2 tokens, 100.0% cut off, 0.0% after revising wrong ones "
        "(100.0% cut off)"
    ) in captured.out
    before_0_2 = {"avg_at_k": 0.5, "response_tokens": 3.0, "truncated": 0.25, "revise_r1": 1.0, "revise_r0": None}
    assert validation_line(before_0_2, 8) == (
        "validation avg@8 50.0%, 3 tokens, 25.0% cut off, 100.0% after revising right ones"
    )


def test_prompts_without_room_for_a_response_are_set_aside_as_before(make_run, grader, coin_checkpoint):
    too_long = problem(x=" ".join(["x = 1 [A] + 1"] * 20), id="too long")
    run = make_run(coin_checkpoint, PROBLEMS, validation=[*PROBLEMS[:2], too_long], **SETTINGS)
    train_run(run, grader)
    lines = read_jsonl(run.output_dir / "set_aside.jsonl")
    assert {line["id"] for line in lines} == {"too long"}
    assert "MAX_TOTAL_SEQUENCE_LENGTH" in lines[0]["reason"]
