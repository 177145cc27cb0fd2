"""Plans that extend others: what they have from them, what they change, and what is refused."""

from dataclasses import replace

import pytest
import yaml

from experiments.one_gpu.plan import PLAN, load_jobs, problems_of
from srt.common.errors import UserError

BASE = {
    "problems": "quickstart",
    "knobs": {"all": {"REPORT_TO": "none"}, "sft": {"LR_STAGE1": 1, "LR_STAGE2": 2}},
    "jobs": {
        "collect": {"run": "collect", "gpus": 7, "env": {"RIGHT_SHARE": 0, "SEED": 5}},
        "srt": {"run": "sft", "data": "collect"},
        "rft": {"run": "trl", "kind": "sft", "data": "collect"},
    },
}


@pytest.fixture
def write(tmp_path):
    """Writes BASE, and beside it in a folder a plan over it; returns the plan's path."""

    def write(plan: dict, name: str = "over/plan.yaml"):
        for file, content in (("base.yaml", BASE), (name, plan)):
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).write_text(yaml.safe_dump(content, sort_keys=False))
        return tmp_path / name

    return write


def test_a_plan_that_states_nothing_is_its_base(write, tmp_path):
    path = write({"extends": "../base.yaml"})
    assert load_jobs(path) == load_jobs(tmp_path / "base.yaml") and problems_of(path) == "quickstart"
    assert list(load_jobs(path)) == list(load_jobs(tmp_path / "base.yaml"))


def test_knobs_and_problems_override_those_of_the_base_one_by_one(write):
    knobs = {"all": {"SAMPLER": "vllm"}, "sft": {"LR_STAGE2": 3}, "evaluate": {"NUM_SAMPLES": 4}}
    path = write({"extends": "../base.yaml", "problems": "number_puzzles", "knobs": knobs})
    jobs, all_ = load_jobs(path), {"REPORT_TO": "none", "SAMPLER": "vllm"}
    assert problems_of(path) == "number_puzzles"
    assert jobs["srt"].env == all_ | {"LR_STAGE1": "1", "LR_STAGE2": "3"}
    assert jobs["evaluate/srt"].env == all_ | {"NUM_SAMPLES": "4"}


def test_jobs_are_kept_changed_replaced_and_added(write, tmp_path):
    own = {
        "srt": {"run": "sft", "data": "collect", "env": {"SEED": 1}},  # instead of the base's, in its place
        "collect": {"gpus": 3, "env": {"RIGHT_SHARE": 0.5}},
        "sd_zero": {"run": "distill", "from": "srt"},
    }
    jobs = load_jobs(write({"extends": "../base.yaml", "keep": ["srt", "collect"], "jobs": own}))
    assert list(jobs) == ["evaluate/base", "srt", "evaluate/srt", "collect", "sd_zero", "evaluate/sd_zero"]
    base = load_jobs(tmp_path / "base.yaml")
    assert jobs["srt"] == replace(base["srt"], env=base["srt"].env | {"SEED": "1"})
    assert jobs["collect"] == replace(base["collect"], gpus=3, env=base["collect"].env | {"RIGHT_SHARE": "0.5"})
    assert list(load_jobs(write({"extends": "../base.yaml", "keep": []}))) == ["evaluate/base"]


def test_a_job_that_is_replaced_has_nothing_of_the_other(write):
    jobs = load_jobs(write({"extends": "../base.yaml", "jobs": {"collect": {"run": "collect"}}}))
    assert jobs["collect"].gpus == 1 and jobs["collect"].env == {"REPORT_TO": "none"}


def test_a_base_may_extend_another_plan(write):
    write({"extends": "../base.yaml", "knobs": {"sft": {"LR_STAGE1": 5}}})
    jobs = load_jobs(write({"extends": "over/plan.yaml", "knobs": {"sft": {"LR_STAGE2": 6}}}, "last.yaml"))
    assert jobs["srt"].env == {"REPORT_TO": "none", "LR_STAGE1": "5", "LR_STAGE2": "6"}


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        ({"extends": "nowhere.yaml"}, r"/over/nowhere.yaml: no such file; .*/over/plan.yaml extends it"),
        ({"extends": "plan.yaml"}, r"/over/plan.yaml: it extends itself \(plan.yaml -> plan.yaml\); remove one"),
        ({"keep": ["sdft"]}, r"/over/plan.yaml: it keeps sdft, which is no job of \.\./base.yaml"),
        ({"jobs": {"sdft": {"gpus": 2}}}, "plan.yaml, job sdft: it has no `run`, and there is no such job to"),
        ({"keep": ["collect"], "jobs": {"srt": {"gpus": 2}}}, "plan.yaml, job srt: it has no `run`, and there is"),
        ({"keep": ["srt"]}, "job srt: it needs collect, which is no job"),
        (
            {"knobs": {"stf": {"LR_STAGE1": 2}}},
            "plan.yaml: knobs of stf, expected those of all, baseline",
        ),
        ({"knob": {}}, "plan.yaml: unknown key knob, expected extends, jobs, keep, knobs, problems"),
    ],
)
def test_what_does_not_exist_is_refused(write, plan, sentence):
    with pytest.raises(UserError, match=sentence):
        load_jobs(write({"extends": "../base.yaml"} | plan))


def test_plans_that_extend_each_other_are_refused(write):
    write({"extends": "../last.yaml"})
    with pytest.raises(UserError, match=r"/last.yaml: it extends itself \(last.yaml -> plan.yaml -> last.yaml\)"):
        load_jobs(write({"extends": "over/plan.yaml"}, "last.yaml"))


def test_a_plan_on_its_own_keeps_nothing_and_is_a_file(write, tmp_path):
    with pytest.raises(UserError, match="unknown key keep, expected jobs, knobs, problems"):
        load_jobs(write(BASE | {"keep": ["srt"]}))
    with pytest.raises(UserError, match="/missing.yaml: no such file; change PLAN"):
        load_jobs(tmp_path / "missing.yaml")


def test_the_plans_over_plan_yaml_have_its_knobs():
    first, puzzles, carried = (
        load_jobs(PLAN.with_name(f"{name}.yaml")) for name in ("plan", "number_puzzles", "carry_over")
    )
    assert {name for name in puzzles if puzzles[name] != first[name]} == {"collect"}
    assert puzzles["collect"] == replace(first["collect"], gpus=3)
    assert list(puzzles)[:4] == ["evaluate/base", "collect", "grpo", "evaluate/grpo"]
    changed = {"MAX_NUM_STEPS": "30", "VAL_PERIOD": "5", "VAL_NUM_SAMPLES": "8", "VAL_REVISE": "0"}
    assert carried["synchronous"].env == first["sd_zero_without_srt"].env | changed
    assert len(carried) == 1 + 2 * 4
