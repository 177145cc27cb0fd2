"""A job that is done is reused only where the model, its inputs and its knobs are what they were."""

from dataclasses import replace

import pytest

from experiments.eight_gpus import run as eight_gpus
from experiments.eight_gpus.plan import Layout as EightLayout
from experiments.eight_gpus.plan import load_plan
from experiments.one_gpu import run as one_gpu
from experiments.one_gpu.plan import PLAN, Job, Layout, load_jobs
from experiments.one_gpu.reuse import MODEL, check_jobs, check_model, model_of
from srt.common.errors import UserError
from srt.common.files import read_json, read_jsonl, write_json
from srt.common.models import load_model, load_tokenizer
from tests.end_to_end.toy_task import save_answering_model

JOB = Job("srt", "sft", data="half_right", env={"LR_STAGE1": "2e-5", "BATCH_SIZE": "8"})


@pytest.mark.parametrize(
    ("job", "refusal"),
    [
        (JOB, None),
        (replace(JOB, env=JOB.env | {"BATCH_SIZE": "4"}), None),  # spreads the work
        (
            replace(JOB, env=JOB.env | {"LR_STAGE1": "5e-6"}),
            "srt: done with LR_STAGE1=2e-5 instead of 5e-6;",
        ),
        (
            replace(JOB, env=JOB.env | {"SEED": "1"}),
            r"done with SEED=\(not set\) instead of 1; choose",
        ),
        (replace(JOB, data="collect"), "done with data=half_right instead of collect"),
    ],
)
def test_a_job_that_was_done_with_other_knobs_or_inputs_is_refused(tmp_path, job, refusal):
    layout = Layout(tmp_path, "base")
    check_jobs([JOB], layout)  # not done yet
    write_json(tmp_path / "srt" / "job.json", {"env": JOB.env, "inputs": JOB.inputs})
    if refusal is None:
        check_jobs([job], layout)
    else:
        with pytest.raises(UserError, match=refusal):
            check_jobs([job], layout)


def test_a_record_of_an_earlier_version_has_no_inputs_to_compare(tmp_path):
    write_json(tmp_path / "srt" / "job.json", {"env": JOB.env})
    check_jobs([replace(JOB, data="collect")], Layout(tmp_path, "base"))


@pytest.mark.parametrize("arguments", [[], ["base"], ["--results", "results"], ["--curves", "curves"]])
def test_another_plan_does_not_take_over_what_is_done(tmp_path, monkeypatch, arguments):
    """carry_over.yaml has an evaluation of the base model, too, with half of the responses."""
    monkeypatch.setenv("OUTPUT", str(tmp_path))
    monkeypatch.setenv("PLAN", str(PLAN.with_name("carry_over.yaml")))
    monkeypatch.delenv("SEED", raising=False)
    done = load_jobs(PLAN)["evaluate/base"]
    write_json(tmp_path / done.name / "job.json", {"env": done.env, "inputs": done.inputs})
    with pytest.raises(UserError, match="evaluate/base: done with NUM_SAMPLES=8 instead of 4; choose"):
        one_gpu.main(arguments)


def test_a_folder_is_about_one_model(tmp_path):
    save_answering_model(tmp_path / "one")
    for copy, change in (("copy", 0.0), ("other", 1.0)):
        model = load_model(str(tmp_path / "one"), "float32")
        next(model.parameters()).data += change
        model.save_pretrained(tmp_path / copy)
        load_tokenizer(str(tmp_path / "one")).save_pretrained(tmp_path / copy)
    output = tmp_path / "output"
    assert model_of(output, "by default") == "by default"
    check_model(output, str(tmp_path / "copy"))
    check_model(output, str(tmp_path / "copy"))
    with pytest.raises(UserError, match=r"output is about the model .*copy, and .*other is another one; choose"):
        check_model(output, str(tmp_path / "other"))
    assert model_of(output, "by default") == str(tmp_path / "copy") and (output / MODEL).is_file()


def test_more_gpus_get_more_problems_and_another_plan_gets_its_tuples(tmp_path):
    layout, plan = EightLayout(tmp_path, tmp_path / "model"), load_plan([1, 4])
    save_answering_model(tmp_path / "model")
    per_gpu = plan.data["problems_per_gpu"]
    eight_gpus.prepare(layout, plan, None, 1)
    assert len(read_jsonl(layout.problems)) == 384
    few = layout.problems.read_text()
    eight_gpus.prepare(layout, plan, None, 4)
    assert len(read_jsonl(layout.problems)) == 4 * per_gpu and layout.problems.read_text().startswith(few)
    eight_gpus.prepare(layout, plan, None, 1)
    assert len(read_jsonl(layout.problems)) == 4 * per_gpu
    tuples = layout.tuples / "srt_stage1.json"
    long = max(len(line["y_init"]) for line in read_json(tuples))
    eight_gpus.prepare(layout, replace(plan, data=plan.data | {"longest_tuple": 1000}), None, 1)
    assert max(len(line["y_init"]) for line in read_json(tuples)) < long / 4


def test_timings_of_other_knobs_or_tuples_are_refused(tmp_path):
    job = load_plan([1]).jobs["collect/1"]
    layout = EightLayout(tmp_path, tmp_path / "model")
    write_json(layout.folder(job.name) / "job.json", {"env": job.env, "inputs": job.inputs})
    check_jobs([job], layout, timed=True)
    for changed, refusal in (
        (replace(job, env=job.env | {"BATCH_SIZE": "64"}), "BATCH_SIZE=256 instead of 64"),
        (replace(job, data=job.data | {"problems_per_gpu": 8}), "problems_per_gpu=256 instead of 8"),
    ):
        with pytest.raises(UserError, match=refusal):
            check_jobs([changed], layout, timed=True)
