"""The one-GPU experiment: its plan, its order, and a whole run on a toy model, stopped, exported and continued."""

import json
import os
import subprocess

import pytest
import yaml

from experiments.one_gpu.baseline_data import of_majority, right
from experiments.one_gpu.plan import PLAN, load_jobs, with_ancestors
from experiments.one_gpu.run import Scheduler
from srt.common.errors import UserError
from srt.config import CONFIGS, KnobLine, read_knob_table
from srt.contract.records import Response
from tests.end_to_end.commands import REPOSITORY, environment
from tests.end_to_end.toy_task import MAX_TOKENS, save_answering_model, write_problems

CONFIG_OF = {
    "collect": "srt_data",
    "select": "srt_data",
    "sft": "sft",
    "distill": "distill",
    "evaluate": "evaluate",
}
TOY_PLAN = {
    "knobs": {
        "all": {"SAMPLER": "transformers", "PROMPT_SUFFIX": "", "GRADING_WORKERS": 1, "REPORT_TO": "none"},
        "collect": {"NUM_RESPONSES": 2, "REVISE_CORRECT": 1, "MAX_TOKENS": MAX_TOKENS},
        "sft": {"TUPLES_PER_UPDATE": 4, "EPOCHS_STAGE1": 1, "EPOCHS_STAGE2": 1},
        "distill": {
            "ENGINE": "local",
            "NUM_PROMPTS_PER_STEP": 8,
            "TRAIN_GLOBAL_BATCH_SIZE": 8,
            "MAX_NUM_STEPS": 1,
            "MAX_TOTAL_SEQUENCE_LENGTH": 64,
            "VAL_PERIOD": 0,
        },
        "evaluate": {"NUM_SAMPLES": 2, "MAX_TOKENS": MAX_TOKENS},
    },
    "jobs": {
        "collect": {"run": "collect", "env": {"RIGHT_SHARE": 0, "TARGET_REVISION_SAMPLES": 8}},
        "half_right": {"run": "select", "env": {"RIGHT_SHARE": 0.5, "TARGET_REVISION_SAMPLES": 8}},
        "rejection": {"run": "baseline", "kind": "rejection", "env": {"RESPONSES": 8}},
        "srt": {"run": "sft", "data": "half_right"},
        "sd_zero": {"run": "distill", "from": "srt"},
        "rft": {"run": "trl", "kind": "sft", "data": "rejection"},
    },
}


def response(answer: str, correct: bool, index: int) -> Response:
    return Response(0, index, "p", "", "x", "3", answer, "", 1, correct, answer, "", "stop", 0)


def test_every_knob_of_the_plan_exists_in_its_script():
    for job in load_jobs(PLAN).values():
        if job.run in CONFIG_OF:
            lines = read_knob_table(CONFIGS / f"{CONFIG_OF[job.run]}.yaml")
            known = {line.env for line in lines if isinstance(line, KnobLine)}
            own = yaml.safe_load(PLAN.read_text())["knobs"]["all"]  # may concern only some of the scripts
            assert set(job.env) - set(own) <= known, job.name


def test_a_model_needs_its_data_and_is_evaluated():
    jobs = load_jobs(PLAN)
    assert with_ancestors(["sd_zero"], jobs) == ["collect", "srt", "sd_zero", "evaluate/sd_zero"]
    assert with_ancestors(["base"], jobs) == ["evaluate/base"]
    with pytest.raises(UserError, match="no job nonsense; there are evaluate/base, collect"):
        with_ancestors(["nonsense"], jobs)


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"run": "guess"}, "run is guess, expected one of"),
        ({"run": "sft", "data": "missing"}, "it needs missing, which is no job"),
        ({"run": "sft", "dat": "collect"}, "unknown or missing key dat"),
    ],
)
def test_a_broken_plan_is_refused(tmp_path, entry, complaint):
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(TOY_PLAN | {"jobs": {"broken": entry}}))
    with pytest.raises(UserError, match=complaint):
        load_jobs(path)


def test_rejection_takes_right_responses_and_majority_the_most_frequent_answer():
    responses = [response("7", False, 0), response("3", True, 1), response("7", False, 2), response("", False, 3)]
    assert [chosen.response_idx for chosen in right(responses)] == [1]
    assert [chosen.response_idx for chosen in of_majority(responses)] == [0, 2]
    assert of_majority([response("", False, 0)]) == []


def test_a_job_for_several_gpus_waits_until_enough_are_free(monkeypatch, tmp_path):
    jobs = load_jobs(PLAN)
    started = []

    class Stuck:
        ended = False

        def __init__(self, job, gpus):
            self.job, self.gpus = job, gpus

    def start(job, jobs, layout, gpus):
        started.append((job.name, tuple(gpus)))
        return Stuck(job, gpus)

    monkeypatch.setattr("experiments.one_gpu.run.start", start)
    monkeypatch.setattr("experiments.one_gpu.run.is_done", lambda job, layout: False)
    scheduler = Scheduler(jobs, list(jobs), layout=None, gpus=["0", "1"], deadline=0)  # type: ignore[arg-type]
    scheduler._start_what_can_run()
    assert started == [("evaluate/base", ("0",))]  # collect needs both
    scheduler.running.clear()
    scheduler.free = ["0", "1"]
    scheduler.wanted = scheduler.wanted[1:]
    scheduler._start_what_can_run()
    assert started[1:] == [("collect", ("0", "1"))]


def test_a_whole_run_is_exported_and_goes_on_elsewhere_without_making_evaluated_models_again(tmp_path):
    model, here, there = tmp_path / "base", tmp_path / "here", tmp_path / "there"
    save_answering_model(model)
    (here / "problems").mkdir(parents=True)
    problems = write_problems(tmp_path / "problems.jsonl", 50).read_text().splitlines(keepends=True)
    for split, chosen in {"train": slice(24), "distill": slice(24, 40), "validation": slice(40, 44)}.items():
        (here / "problems" / f"{split}.jsonl").write_text("".join(problems[chosen]))
    (here / "problems" / "test.jsonl").write_text("".join(problems[44:]))
    plan = tmp_path / "plan.yaml"
    plan.write_text(yaml.safe_dump(TOY_PLAN))

    def run(output, *arguments, code=0):
        knobs = {"MODEL_PATH": str(model), "OUTPUT": str(output), "PLAN": str(plan), "OMP_NUM_THREADS": "1"}
        script = REPOSITORY / "scripts" / "experiments" / "one_gpu.sh"
        done = subprocess.run(
            ["bash", script, *arguments], env=environment(knobs), capture_output=True, text=True, timeout=600
        )
        logs = "".join(f"\n== {log}\n{log.read_text()[-2000:]}" for log in output.rglob("job.log"))
        assert done.returncode == code, done.stdout + done.stderr + logs
        return done.stdout

    out = run(here)
    assert "start: collect" in out and "failed" not in out
    records = {path.parent.name: json.loads(path.read_text()) for path in here.rglob("job.json")}
    assert {"srt", "sd_zero", "rft", "base"} <= set(records)
    assert records["srt"]["seconds"] > 0 and records["srt"]["env"]["TUPLES_PER_UPDATE"] == "4"
    kept = json.loads((here / "half_right" / "srt_stage1.json").read_text())
    assert {entry["y_init_correct"] for entry in kept} == {True, False}
    assert not any(
        entry["y_init_correct"] for entry in json.loads((here / "collect" / "srt_stage1.json").read_text())
    )
    assert (here / "sd_zero" / "student" / "model.safetensors").is_file()
    assert (here / "rft" / "model" / "model.safetensors").is_file()

    run(here, "--export", str(tmp_path / "results.tar.gz"))
    run(there, "--import", str(tmp_path / "results.tar.gz"))
    assert not list(there.rglob("*.safetensors"))
    assert (there / "sd_zero" / "metrics.jsonl").is_file()
    assert "start:" not in run(there)  # everything is evaluated
    os.remove(there / "evaluate" / "sd_zero" / "job.json")
    out = run(there)
    assert [line for line in out.splitlines() if line.startswith("start:")] == [
        f"start: {name} on GPU -" for name in ("srt", "sd_zero", "evaluate/sd_zero")
    ]
