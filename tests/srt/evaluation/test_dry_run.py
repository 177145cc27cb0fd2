"""--dry-run of an evaluation: what it would cost, with nothing started and nothing written."""

import pytest

from srt.common.errors import UserError


@pytest.mark.parametrize("knob", [[], ["revise=none"], ["greedy=0"]])
def test_the_plan_counts_responses_and_tokens_of_each_model(evaluations, tmp_path, capsys, knob):
    weak, strong = evaluations.models.values()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="evaluation.json: no such file"):  # which would have been written
        evaluations(weak, strong, *knob, "--dry-run")
    assert evaluations.started == [] and sorted(tmp_path.rglob("*")) == before
    printed = capsys.readouterr().out
    assert printed.endswith("dry run: no engine was started, nothing was written\n")
    responses, revisions = 24 + 6 * (knob != ["greedy=0"]), 24 * (knob != ["revise=none"])
    bound = 50 * (responses + revisions)
    for model in (weak, strong):
        plan = printed.split(f"\n{model}\n")[1].split("output:")[0]
        assert f" {responses}\n" in plan and f"{bound:,} at most, {bound // 4:,} if responses use 25%" in plan
        assert "GPU hours of this guess" in plan


def test_the_plan_says_that_an_evaluation_would_be_continued(evaluations, capsys):
    weak = evaluations.models["weak"]
    evaluations(weak)
    capsys.readouterr()
    evaluations(weak, "--dry-run")
    assert "(it holds an evaluation, which this would continue)" in capsys.readouterr().out
    assert evaluations.started == []
