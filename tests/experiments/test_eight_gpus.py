"""The experiment on several GPUs, with CPU processes in their place: every job that needs no GPU really runs."""

import json
import re
import subprocess
import time

import pytest
import yaml

from experiments.eight_gpus.data import PREFIX, write_problems, write_tuples
from experiments.eight_gpus.figures import WATCHED, figures_of
from experiments.eight_gpus.kill import FIGURES
from experiments.eight_gpus.models import save_model
from experiments.eight_gpus.plan import PLAN, SCRIPTS, Job, Layout, choose, command, load_plan
from experiments.eight_gpus.results import FAILURE, results, table
from experiments.eight_gpus.run import run_job
from experiments.eight_gpus.watch import MemoryWatch
from srt.common.errors import UserError
from srt.common.files import read_json, write_json, write_jsonl
from srt.common.machine import Machine
from srt.common.memory_plan import GIB
from srt.common.models import count_parameters, load_model_config
from srt.config import load_config
from srt.sft.config import SftConfig
from srt.sft.plan import make_plan
from tests.end_to_end.commands import REPOSITORY, environment

ROWS = {"run": "distill", "minutes": 5, "largest": True}
TOY = {
    "data": {"problems_per_gpu": 3, "tuples": 16, "median_tokens": 60, "longest_tuple": 200},
    "knobs": {
        "all": {"SAMPLER": "transformers", "REPORT_TO": "none", "PROMPT_SUFFIX": "", "GRADING_WORKERS": 1},
        "collect": {"MAX_TOKENS": 8},
        "sft": {"SRT_OBJECTIVE": "joint", "EPOCHS_STAGE1": 1, "PACKING": 1, "MAX_TOKENS_PER_PASS": 200},
        "distill": {"ENGINE": "local", "MAX_NUM_STEPS": 2, "SAVE_PERIOD": 1, "VAL_PERIOD": 0, "PREFLIGHT": 0,
                    "WARMUP_STEPS": 1, "NUM_PROMPTS_PER_STEP": 4, "TRAIN_GLOBAL_BATCH_SIZE": 4, "KILL_DELAY": 0,
                    "MAX_TOTAL_SEQUENCE_LENGTH": 50},
        "export": {"SAMPLER": "transformers"},
    },
    "jobs": {
        "collect": {"run": "collect", "minutes": 5},
        "sft4": {"run": "sft", "minutes": 5, "env": {"TUPLES_PER_UPDATE": 4}},
        "distill": ROWS,
        "export": {"run": "export", "of": "distill", "minutes": 5, "largest": True},
        "kill": {"run": "kill", "minutes": 5, "largest": True, "env": {"MAX_NUM_STEPS": 40}},
        "slow": {"run": "distill", "minutes": 0.001, "largest": True},
        "broken": ROWS | {"env": {"KL_TYPE": "sideways"}},
    },
}  # fmt: skip


def run(folder, *arguments, code=0, **knobs):
    script = REPOSITORY / "scripts" / "experiments" / "eight_gpus.sh"
    (folder / "plan.yaml").write_text(yaml.safe_dump(TOY, sort_keys=False))
    settings = {"SHAPE": "tiny", "SIZES": "1,2", "OUTPUT": folder / "out", "PLAN": folder / "plan.yaml"} | knobs
    done = subprocess.run(["bash", script, *arguments], env=environment(settings), capture_output=True, text=True)
    logs = "".join(f"\n== {log}\n{log.read_text()[-2000:]}" for log in (folder / "out").rglob("job.log"))
    assert done.returncode == code, done.stdout + done.stderr + logs
    return done.stdout


# A whole run -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with every job done, except those that cannot be, and what the command printed."""
    folder = tmp_path_factory.mktemp("eight gpus")
    return folder, run(folder, code=1)


@pytest.mark.timeout(1200)
def test_every_job_runs_and_the_table_has_its_figures(finished):
    folder, printed = finished
    started = re.findall(r"^start: (\S+)", printed, re.MULTILINE)
    assert started == [
        "collect/1",
        "collect/2",
        "sft4/1",
        "sft4/2",
        *(f"{job}/2" for job in list(TOY["jobs"])[2:]),
    ]
    found = read_json(folder / "out" / "eight_gpus.json")["rows"]
    rows = {f"{row['name']}/{row['gpus']}": row for row in found}
    one, two = rows["collect/1"]["figures"], rows["collect/2"]["figures"]
    assert (one["attempts"], two["attempts"]) == (2 * 3, 2 * 6)  # a response and its revision; twice the problems
    assert one["tokens_per_second"] == pytest.approx(one["tokens"] / one["sampling_seconds"], rel=0.1)
    assert two["efficiency"] == pytest.approx(two["tokens_per_second"] / one["tokens_per_second"] / 2, abs=0.01)
    sft = rows["sft4/1"]["figures"]
    assert sft["updates"] == 4 and sft["tokens_per_second"] > 0
    assert 0 < sft["loss_difference"] < 1e-4 or sft["losses"] == rows["sft4/2"]["figures"]["losses"]
    assert "packed passes on 2 processes (FSDP2)" in (folder / "out" / "sft4" / "2" / "job.log").read_text()
    distilled = rows["distill/2"]["figures"]
    assert distilled["steps"] == 2 and {"generation", "teacher", "student"} <= set(distilled["parts"])
    assert "transformers loaded" in (folder / "out" / "export" / "2" / "job.log").read_text()
    killed = rows["kill/2"]["figures"]
    assert 1 <= killed["killed_after_step"] < killed["steps"] == 40
    assert 1 <= killed["continued_after_step"] <= killed["killed_after_step"] + 1
    for row in rows.values():
        assert "failed" in row or {"finished", "commit", "device", "command", "env", "seconds"} <= set(row)


@pytest.mark.timeout(1200)
def test_a_job_that_fails_or_takes_too_long_is_in_the_table_with_its_reason(finished):
    folder, printed = finished
    assert "failed: slow/2: not done within 0.001 minutes" in printed
    assert "failed: broken/2: error: KL_TYPE=sideways: expected one of reverse" in printed
    text = (folder / "out" / "eight_gpus.md").read_text()
    assert "| slow | 2 |" in text and "KL_TYPE=sideways" in text and text in printed


@pytest.mark.timeout(1200)
def test_a_repeated_command_goes_on_with_what_is_open(finished):
    folder, _ = finished
    assert "start:" not in run(folder, "collect", "sft4/2", "export")
    assert re.findall("start: (.*) on", run(folder, "-slow", code=1)) == ["broken/2"]
    assert re.findall(r"^(\S+) .* open$", run(folder, "--list"), re.MULTILINE) == ["slow/2", "broken/2"]


# Its parts ---------------------------------------------------------------------------------------------------


def test_jobs_for_more_gpus_than_there_are_are_left_out():
    jobs = load_plan([1, 2]).jobs
    assert "tp2/2" in jobs and not any(name.startswith("tp4") for name in jobs)
    assert "nodes/1" not in load_plan([1]).jobs
    assert [name for name in load_plan([1, 2, 4, 8]).jobs if name.startswith(("sft4", "kill"))] == [
        "sft4/1", "sft4/2", "sft4/4", "sft4/8", "kill/8",
    ]  # fmt: skip


def test_jobs_are_chosen_and_left_out_by_name():
    jobs = load_plan([1, 2]).jobs
    assert choose(["sft4", "-sft4/1"], jobs) == ["sft4/2"]
    assert choose(["export"], jobs) == ["distill/2", "export/2"]
    assert set(jobs) - set(choose(["-distill", "-export"], jobs)) == {"distill/1", "distill/2", "export/2"}
    with pytest.raises(UserError, match="no job nonsense; there are collect/1, collect/2"):
        choose(["nonsense"], jobs)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"data": {"tuples": 3}}, "data must have longest_tuple, median_tokens"),
        ({"jobs": {"x": {"run": "guess", "minutes": 1}}}, "job x: run is guess, expected one of"),
        ({"jobs": {"x": {"run": "sft"}}}, "job x: unknown or missing key minutes"),
        ({"jobs": {"x": None}}, "job x: expected a mapping such as"),
        ({"jobs": {"x": {"run": "sft", "minutes": 1, "env": {"EPOCHS": 1}}}}, "job x: it has no knob EPOCHS"),
        ({"jobs": {"x": {"run": "export", "minutes": 1, "of": "y"}}}, "it needs y/2, which is no job"),
    ],
)
def test_a_broken_plan_is_refused(tmp_path, change, complaint):
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(TOY | change))
    with pytest.raises(UserError, match=complaint):
        load_plan([2], path)


def test_a_command_uses_as_many_processes_as_gpus(tmp_path):
    layout, plan = Layout(tmp_path, tmp_path / "model"), load_plan([1, 8])
    _, collect = command(plan.jobs["collect/8"], layout, plan.data)
    assert (collect["DATA_PARALLEL_SIZE"], collect["MAX_SAMPLES"]) == ("8", str(8 * plan.data["problems_per_gpu"]))
    _, sft = command(plan.jobs["sft32/8"], layout, plan.data)
    assert (sft["NUM_PROCESSES"], sft["TUPLES_PER_UPDATE"]) == ("8", "32")


@pytest.mark.parametrize(("shape", "billions"), [("qwen3-4b", 4.022468096), ("olmo3-7b", 7.298011136)])
def test_the_shapes_have_as_many_parameters_as_the_published_models(tmp_path, shape, billions):
    save_model(shape, tmp_path / shape, weights=False)
    assert count_parameters(load_model_config(str(tmp_path / shape))) == billions * 1e9
    assert not list((tmp_path / shape).glob("*.safetensors"))


def test_tuples_have_the_requested_length_and_problems_are_distinct(tmp_path):
    save_model("tiny", tmp_path / "model", weights=False)
    write_tuples(tmp_path / "data", 40, median=900, longest=2000)
    knobs = [f"base_model={tmp_path / 'model'}", f"train_data_dir={tmp_path / 'data'}", f"data_prefix={PREFIX}"]
    plan = make_plan(load_config(SftConfig, "sft", [*knobs, f"output_dir={tmp_path / 'out'}"]), dry_run=True)
    lengths = sorted(length for stage in plan.stages for length in stage.lengths)
    assert lengths[len(lengths) // 2] == pytest.approx(900, rel=0.35) and lengths[-1] <= 2000
    write_problems(tmp_path / "problems.jsonl", 2048)
    texts = {json.loads(line)["problem"] for line in (tmp_path / "problems.jsonl").read_text().splitlines()}
    assert len(texts) == 2048


def test_the_watch_keeps_the_most(monkeypatch):
    monkeypatch.setattr(
        "experiments.eight_gpus.watch.this_machine", lambda: Machine(2, 70 * GIB, 100 * GIB, 80 * GIB)
    )
    watch = MemoryWatch()
    for gpu, host in ((50, 90), (20, 95), (60, 40), (70, 100)):
        watch.sample(Machine(2, gpu * GIB, host * GIB, 80 * GIB))
    assert watch.figures() == {"gpu_in_use_gib": 60.0, "host_memory_gib": 60.0}


def test_scaling_is_relative_to_the_fewest_gpus_and_losses_to_two(tmp_path):
    layout, jobs = Layout(tmp_path, tmp_path / "model"), {}
    for gpus, rate, losses in ((1, 1000, [2.0, 1.0]), (2, 1900, [2.0, 1.0]), (4, 3600, [2.0, 1.01])):
        job = Job(f"sft4/{gpus}", "sft", gpus, 1)
        jobs[job.name] = job
        folder = layout.folder(job.name)
        write_json(
            folder / "job.json", {"job": job.name, "seconds": 60.0, "finished": "t", "commit": "c", "device": "d"}
        )
        write_json(folder / "srt" / "stage2" / "training_log.json", [{"loss": loss} for loss in losses])
        (folder / "job.log").write_text(f"  tokens/s during updates  {rate:,}\n  peak GPU memory  28.2 GiB\n")
        write_json(folder / WATCHED, {"gpu_in_use_gib": 31.0})
    failed = Job("sft4/8", "sft", 8, 1)
    write_json(layout.folder(failed.name) / FAILURE, {"job": failed.name, "failed": "a | b"})
    rows = results(jobs | {failed.name: failed}, layout)["rows"]
    assert [row["figures"]["efficiency"] for row in rows[:3]] == [1.0, 0.95, 0.9]
    assert [row["figures"]["loss_difference"] for row in rows[:3]] == pytest.approx([0.0, 0.0, 0.01])
    text = table({"rows": rows})
    assert "| sft4 | 4 | 3,600 | 0.90 (of 1 GPU) |  | 28.2 | 31.0 |" in text and "| a / b |" in text


def test_the_first_step_of_every_process_is_no_part_of_the_timing(tmp_path):
    """Kernels are compiled in it: after a kill a second time."""
    layout = Layout(tmp_path, tmp_path / "model")
    lines = [
        {"seconds": {"student": seconds}, "trained_tokens": 100, "kl": 0.5} for seconds in (90.0, 5.0, 80.0, 15.0)
    ]
    for name in ("distill", "kill"):
        write_jsonl(layout.folder(f"{name}/1") / "run" / "metrics.jsonl", lines)
    write_json(layout.folder("kill/1") / FIGURES, {"continued_after_step": 2})
    distill, kill = (figures_of(Job(f"{name}/1", name, 1, 1), layout) for name in ("distill", "kill"))
    assert (distill["step_seconds"], distill["tokens_per_second"]) == (33.33, 3)
    assert (kill["step_seconds"], kill["tokens_per_second"]) == (10.0, 10)


def test_a_job_that_was_stopped_begins_again(tmp_path):
    layout, plan = Layout(tmp_path, tmp_path / "no model"), load_plan([1])
    job = plan.jobs["distill/1"]
    write_jsonl(layout.folder(job.name) / "run" / "metrics.jsonl", [{"step": 0}])
    run_job(job, layout, plan.data, [""], time.monotonic())
    assert (tmp_path / "distill" / "1.before1" / "run" / "metrics.jsonl").is_file()
    assert not (layout.folder(job.name) / "run").exists()


# Without a GPU -----------------------------------------------------------------------------------------------


def test_a_dry_run_shows_commands_and_memory_plans_and_keeps_nothing(tmp_path):
    printed = run(tmp_path, "--dry-run", "collect/8", "sft4/8", "nodes", "-collect/1",
                  SHAPE="qwen3-4b", SIZES="1,8", PLAN=PLAN)  # fmt: skip
    assert "\ncollect/8: at most 15 minutes\n  PROMPT_SUFFIX='' SAMPLER=vllm " in printed
    assert f"{SCRIPTS['sft']}.sh" in printed and "TUPLES_PER_UPDATE=4" in printed
    assert "memory plan of 8 vLLM engines for PLAN_FOR=8x80" in printed
    assert re.search(
        r"memory plan of stage 2 for PLAN_FOR=8x80, .*\n  training .*\n.*\n.*\nmemory of stage 2: fits", printed
    )
    assert "memory plan of ENGINE=nemo-rl for PLAN_FOR=2x4x80" in printed
    assert not (tmp_path / "out").exists()
