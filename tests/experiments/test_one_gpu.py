"""The one-GPU experiment: its plan, its order, and a whole run on a toy model, stopped, exported and continued."""

import json
import os
import shutil
import subprocess
from dataclasses import replace

import pytest
import torch
import yaml

from experiments.one_gpu import baseline_data, trl_baselines
from experiments.one_gpu.baseline_data import of_majority, right
from experiments.one_gpu.plan import BASELINE_FILE, PLAN, Job, Layout, load_jobs, with_ancestors
from experiments.one_gpu.run import Scheduler
from experiments.one_gpu.steps import write_steps
from srt.common.errors import UserError
from srt.common.files import read_jsonl, write_jsonl
from srt.common.models import load_model, load_tokenizer
from srt.contract.records import Response, as_line, pack_ids, unpack_ids
from tests.end_to_end.commands import REPOSITORY, environment
from tests.end_to_end.toy_task import MAX_TOKENS, save_answering_model, write_problems

TOY_PLAN = {
    "knobs": {
        "all": {"SAMPLER": "transformers", "PROMPT_SUFFIX": "", "GRADING_WORKERS": 1, "REPORT_TO": "none"},
        "collect": {"NUM_RESPONSES": 2, "REVISE_CORRECT": 1, "MAX_TOKENS": MAX_TOKENS},
        "sft": {"TUPLES_PER_UPDATE": 4, "EPOCHS_STAGE1": 1, "SRT_OBJECTIVE": "joint"},
        "evaluate": {"NUM_SAMPLES": 2, "MAX_TOKENS": MAX_TOKENS},
        "localize": {"MAX_TOKENS": MAX_TOKENS, "COMPARE_PHRASES": 0},
    },
    "jobs": {
        "collect": {"run": "collect", "env": {"RIGHT_SHARE": 0, "TARGET_REVISION_SAMPLES": 8}},
        "srt": {"run": "sft", "data": "collect"},
        "localize": {"run": "localize", "from": "srt"},
    },
}


def response(answer: str, correct: bool, index: int) -> Response:
    return Response(0, index, "p", "", "x", "3", answer, "", 1, correct, answer, "", "stop", 0)


@pytest.mark.parametrize("name", ["plan", "number_puzzles", "carry_over", "quickstart"])
def test_every_plan_can_be_read(name):
    assert load_jobs(PLAN.with_name(f"{name}.yaml"))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "expected a mapping, found NoneType"),
        ("- a", "expected a mapping, found list"),
        ("knobs: {all: {}", "cannot be read as YAML .while parsing a flow mapping"),
        ("knobs: {trl: {EPOCH: 3}}\njobs: {a: {run: trl, kind: sft, data: problems}}", "it has no knob EPOCH"),
    ],
)
def test_a_plan_that_is_no_plan_is_refused(tmp_path, text, complaint):
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(UserError, match=f"plan.yaml.*{complaint}"):
        load_jobs(tmp_path / "plan.yaml")


def test_a_model_needs_its_data_and_is_evaluated():
    jobs = load_jobs(PLAN)
    assert with_ancestors(["sd_zero"], jobs) == ["collect", "half_right", "srt", "sd_zero", "evaluate/sd_zero"]
    assert with_ancestors(["base"], jobs) == ["evaluate/base"]
    with pytest.raises(UserError, match="no job nonsense; there are evaluate/base, collect"):
        with_ancestors(["nonsense"], jobs)


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"run": "guess"}, "run is guess, expected one of"),
        ({"run": "sft", "data": "missing"}, "it needs missing, which is no job"),
        ({"run": "sft", "dat": "collect"}, "unknown or missing key dat"),
        ({"run": "sft"}, "unknown or missing key data"),
        (None, "job broken: expected a mapping such as"),
        ({"run": "trl", "kind": "ppo", "data": "problems"}, "kind is ppo, expected one of sft, grpo, sdft"),
        ({"run": "distill", "from": "broken"}, "job broken: it needs itself"),
        ({"run": "localize", "from": "evaluate/base"}, "it starts from evaluate/base, which makes no model"),
        ({"run": "distill", "from": "base", "env": {"MAX_STEPS": 5}}, "it has no knob MAX_STEPS; its script's"),
        (
            {"run": "trl", "kind": "sft", "data": "problems", "env": {"LR_SCHEDULE": "linear"}},
            "no knob LR_SCHEDULE",
        ),
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
    spelled = [response("8", False, 0), response("$x = 7$.", False, 1), response("x=7", False, 2)]
    assert [chosen.response_idx for chosen in of_majority(spelled)] == [1, 2]


@pytest.fixture
def started(monkeypatch):
    """What a scheduler has started, as (job, its GPUs); no job ends."""
    started = []

    class Stuck:
        ended = False

        def __init__(self, job, gpus):
            self.job, self.gpus, self.share = job, gpus, job.share

        def succeeded(self):
            return True

    def start(job, jobs, layout, gpus):
        started.append((job.name, *gpus))
        return Stuck(job, gpus)

    monkeypatch.setattr("experiments.one_gpu.run.start", start)
    monkeypatch.setattr("experiments.one_gpu.run.is_done", lambda job, layout: False)
    return started


def scheduler_of(jobs: dict, gpus: str) -> Scheduler:
    return Scheduler(jobs, list(jobs), layout=None, gpus=gpus.split(","), deadline=0)  # type: ignore[arg-type]


def test_a_job_for_several_gpus_waits_until_enough_are_free(started):
    scheduler = scheduler_of(load_jobs(PLAN), "0,1,2")
    scheduler._start_what_can_run()
    assert started == [("evaluate/base", "0")]  # collect needs three
    scheduler.running[0].ended = True
    scheduler.wanted = scheduler.wanted[1:]
    scheduler._collect_finished()
    scheduler._start_what_can_run()
    assert started[1:] == [("collect", "0", "1", "2")]


def test_jobs_with_half_a_gpu_share_one_that_whole_jobs_leave_alone(started):
    whole = {name: Job(name, "evaluate") for name in ("a", "b")}
    half = {name: Job(name, "sft", gpus=0.5) for name in ("c", "d", "e")}
    scheduler = scheduler_of({"a": whole["a"]} | half | {"b": whole["b"]}, "0,1,2")
    scheduler._start_what_can_run()
    assert started == [("a", "0"), ("c", "1"), ("d", "1"), ("e", "2")]
    for running in scheduler.running:
        running.ended = running.job.name in "ce"
    scheduler.wanted = ["b"]
    scheduler._collect_finished()
    scheduler._start_what_can_run()
    assert started[4:] == [("b", "2")]
    assert scheduler.free == {"0": 0.0, "1": 0.5, "2": 0.0}


def test_evaluating_a_model_waits_while_others_train_from_it(started, monkeypatch):
    monkeypatch.setattr("experiments.one_gpu.run.is_done", lambda job, layout: job.run == "sft")
    jobs = {
        "srt": Job("srt", "sft"),
        "rft": Job("rft", "sft"),
        "evaluate/srt": Job("evaluate/srt", "evaluate", source="srt"),
        "evaluate/rft": Job("evaluate/rft", "evaluate", source="rft"),
        "sd_zero": Job("sd_zero", "distill", source="srt"),
    }
    scheduler = scheduler_of(jobs, "0,1")
    scheduler._start_what_can_run()
    assert started == [("evaluate/rft", "0"), ("sd_zero", "1")]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A folder with the toy base model, and the experiment's problem files for it."""
    folder = tmp_path_factory.mktemp("toy")
    save_answering_model(folder / "base")
    (folder / "problems").mkdir()
    problems = write_problems(folder / "all.jsonl", 30).read_text().splitlines(keepends=True)
    for split, chosen in {"train": slice(24), "test": slice(24, None)}.items():
        (folder / "problems" / f"{split}.jsonl").write_text("".join(problems[chosen]))
    (folder / "plan.yaml").write_text(yaml.safe_dump(TOY_PLAN, sort_keys=False))
    return folder


def test_a_run_is_exported_and_goes_on_elsewhere_without_making_evaluated_models_again(toy, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(toy / "problems", here / "problems")

    def run(output, *arguments):
        knobs = {"MODEL_PATH": toy / "base", "OUTPUT": output, "PLAN": toy / "plan.yaml", "OMP_NUM_THREADS": "1"}
        knobs |= {"LR_STAGE1": "of the shell, with which a job would fail"}
        script = REPOSITORY / "scripts" / "experiments" / "one_gpu.sh"
        done = subprocess.run(["bash", script, *arguments], env=environment(knobs), capture_output=True, text=True)
        logs = "".join(f"\n== {log}\n{log.read_text()[-2000:]}" for log in output.rglob("job.log"))
        assert done.returncode == 0, done.stdout + done.stderr + logs
        return done.stdout

    assert started_in(run(here)) == ["evaluate/base", "collect", "srt", "evaluate/srt", "localize"]
    assert json.loads((here / "localize" / "localization.json").read_text())["pairs"][0]["student"].endswith(
        "srt/stage2"
    )
    record = json.loads((here / "srt" / "job.json").read_text())
    assert record["seconds"] > 0 and record["env"]["TUPLES_PER_UPDATE"] == "4"
    assert not any(
        entry["y_init_correct"] for entry in json.loads((here / "collect" / "srt_stage1.json").read_text())
    )
    table = run(here, "--results", str(tmp_path / "results"))
    assert "| base | " in table and "| srt | " in table and (tmp_path / "results" / "one_gpu.png").is_file()
    rows = json.loads((tmp_path / "results" / "one_gpu.json").read_text())["rows"]
    assert rows[0]["budget"]["samples"] == 0 and rows[1]["budget"]["samples"] > 48
    assert rows[1]["budget"]["trained_tokens"] > 0 and "to_base" in rows[1]["tasks"]

    run(here, "--export", str(tmp_path / "results.tar.gz"))
    run(there, "--import", str(tmp_path / "results.tar.gz"))
    assert not list(there.rglob("*.safetensors"))
    assert started_in(run(there)) == []  # everything is evaluated
    os.remove(there / "evaluate" / "srt" / "job.json")
    assert started_in(run(there)) == ["srt", "evaluate/srt"]
    assert (there / "srt.before1" / "job.json").is_file()


def started_in(output: str) -> list[str]:
    return [line.split()[1] for line in output.splitlines() if line.startswith("start:")]


def test_rejection_fine_tuning_trains_on_the_right_responses_alone(toy, tmp_path):
    attempts = [response(str(3 + 4 * (index % 2)), index % 2 == 0, index) for index in range(8)]
    tokenizer = load_tokenizer(str(toy / "base"))
    lines = []
    for index, attempt in enumerate(attempts):
        ids = tokenizer.encode(f"\\boxed{{{attempt.y_init}}}")
        lines.append(as_line(replace(attempt, problem_idx=index, response_idx=0, y_init_ids=pack_ids(ids))))
    write_jsonl(tmp_path / "attempts.jsonl", lines)
    baseline_data.main(
        [f"data={tmp_path}/attempts.jsonl", f"output={tmp_path}/data", "kind=rejection", "responses=3"]
    )
    chosen = read_jsonl(tmp_path / "data" / BASELINE_FILE)
    assert [unpack_ids(line["y_ids"]) for line in chosen] == [tokenizer.encode("\\boxed{3}")] * 3
    data = tmp_path / "data" / BASELINE_FILE
    torch.backends.cuda.enable_cudnn_sdp(True)
    trl_baselines.main([f"data={data}", f"output={tmp_path}/rft", "kind=sft", f"model={toy / 'base'}"])
    assert not torch.backends.cuda.cudnn_sdp_enabled()  # its gradients are NaN for some lengths
    log = json.loads((tmp_path / "rft" / "training_log.json").read_text())
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert len(losses) == 3 and losses[-1] < losses[0]  # one update an epoch
    before, after = (load_model(str(path), "float32") for path in (toy / "base", tmp_path / "rft" / "model"))
    assert any(not torch.equal(*pair) for pair in zip(before.parameters(), after.parameters(), strict=True))


def test_a_rival_ends_at_the_first_gradient_that_is_not_finite(toy, tmp_path):
    damaged = load_model(str(toy / "base"), "float32")
    next(damaged.parameters()).data.fill_(float("nan"))
    damaged.save_pretrained(tmp_path / "model")
    tokenizer = load_tokenizer(str(toy / "base"))
    tokenizer.save_pretrained(tmp_path / "model")
    ids = pack_ids(tokenizer.encode("\\boxed{3}"))
    write_jsonl(tmp_path / "responses.jsonl", [{"id": "0", "x": "1+2=?", "y": "", "y_ids": ids}] * 8)
    with pytest.raises(UserError, match="update 1: the gradient's norm is nan"):
        trl_baselines.main(
            [f"data={tmp_path}/responses.jsonl", f"output={tmp_path}/rft", "kind=sft", f"model={tmp_path}/model"]
        )
    assert not (tmp_path / "rft" / "model").exists()


def test_the_steps_of_phase_2_are_written_beside_the_results(tmp_path):
    jobs = {"sd_zero": Job("sd_zero", "distill"), "open": Job("open", "distill"), "srt": Job("srt", "sft")}
    for name in ("sd_zero", "srt"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text(
            '{"step": 0, "kl": 0.1234567, "lr": 1.25e-7, "seconds": 3}\n'
        )
    assert write_steps(jobs, Layout(tmp_path, "base"), tmp_path, "plan") == ["plan_sd_zero.json"]
    written = json.loads((tmp_path / "plan_sd_zero.json").read_text())
    assert written == {"metrics": [{"step": 0, "kl": 0.12346, "lr": 1.25e-7}], "validation": []}
    (tmp_path / "sd_zero" / "validation.jsonl").write_text('{"step": -1, "avg_at_k": 0.3333333}\n')
    write_steps(jobs, Layout(tmp_path, "base"), tmp_path, "plan")
    written = json.loads((tmp_path / "plan_sd_zero.json").read_text())
    assert written["validation"] == [{"step": -1, "avg_at_k": 0.33333}]
