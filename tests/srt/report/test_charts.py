"""The curves: which numbers they show."""

import pytest

from opsd.run_log import MetricsLog, open_step_log
from srt.common.files import read_json, write_json
from srt.report.charts import Chart, Series, metric_points
from srt.report.data import read_run
from srt.report.folders import RunFolders
from tests.srt.helpers.report_logs import write_distillation_logs
from tests.srt.helpers.report_runs import Page, make_report, sample, step_metrics, write_distillation, write_sft


def test_a_resumed_run_has_every_step_once_with_its_latest_metrics(tmp_path):
    folder = tmp_path / "distillation"
    write_distillation(folder, steps=30)
    log = MetricsLog(folder, 25, "none")  # killed after step 30, resumed from the checkpoint after step 25
    for step in range(25, 40):
        log.write(step, step_metrics(step) | {"reward": 0.9})
    log.close()
    samples = open_step_log(folder / "samples.jsonl", 0)
    samples.append(sample(0, ["again"], [1.0]))
    samples.close()
    (folder / "metrics.jsonl").open("a").write('{"step": 40, "rew')  # killed while writing a line
    before = (folder / "metrics.jsonl").read_bytes()

    run = read_run(RunFolders("run", distillation=folder))
    assert [line["step"] for line in run.steps] == list(range(40))
    assert [line["reward"] for line in run.steps[23:27]] == [0.73, 0.74, 0.9, 0.9]
    assert [line["tokens"] for line in run.samples] == [["again"]]
    assert "40 steps" in make_report(tmp_path)[1]
    assert (folder / "metrics.jsonl").read_bytes() == before  # the run may be in progress


@pytest.mark.parametrize("rewards", [(0,), (1,), ()])
def test_a_short_run_without_responses_of_one_reward_is_plotted(tmp_path, rewards):
    log = MetricsLog(tmp_path / "distillation", 0, "none")
    log.write(0, step_metrics(0, rewards))
    log.close()
    page = Page(make_report(tmp_path)[1])
    assert ("kl" in page.charts) == bool(rewards)
    assert [curve["role"] for curve in page.charts.get("kl", {}).get("series", [])] == [f"r{r}" for r in rewards]
    assert page.points("reward", "training responses") == [(0, 0.5)]


def test_a_metric_that_is_not_finite_leaves_a_gap(tmp_path):
    log = MetricsLog(tmp_path / "distillation", 0, "none")
    for step in range(3):
        log.write(step, step_metrics(step) | ({"kl_r0": float("nan")} if step == 1 else {}))
    log.close()
    run = read_run(RunFolders("run", distillation=tmp_path / "distillation"))
    assert metric_points(run.steps, "kl_r0") == [(0, 0.1), (2, 0.1)]
    assert metric_points(run.steps, "kl_r1", shift=1) == [(1, 0.1), (2, 0.1), (3, 0.1)]
    assert Page(make_report(tmp_path)[1]).points("kl", "r = 0") == [(0, 0.1), (2, 0.1)]


def test_validation_begins_before_the_first_step_and_shows_how_the_student_revises(whole):
    page = whole.page
    assert page.points("reward", "validation avg@4") == [(0, 0.5), (10, 0.6), (20, 0.7)]
    assert page.points("reward", "validation pass@4") == [(0, 0.8), (10, 0.8), (20, 0.8)]
    assert page.points("revise", "r = 0") == [(0, 0.3), (10, 0.3), (20, 0.3)]
    assert page.points("revise", "r = 1") == [(0, 0.9), (10, 0.8), (20, 0.7)]


def test_validation_of_a_run_without_validation_jsonl_comes_from_the_steps(tmp_path):
    write_distillation(tmp_path / "distillation")
    page = Page(make_report(tmp_path)[1])
    assert page.points("reward", "validation avg@4") == [(10, 0.6), (20, 0.6), (30, 0.6)]
    assert "validation.jsonl is missing" in page.text


def test_only_a_teacher_that_was_synchronized_is_marked(whole):
    assert whole.page.charts["kl"]["marks"] == [15]
    assert "the teacher became the student" in whole.page.text


def test_seconds_and_throughput_follow_from_the_steps(tmp_path):
    log = MetricsLog(tmp_path / "distillation", 0, "none")
    seconds = {"generation": 3.0, "update": 1.0}
    log.write(0, step_metrics(0) | {"seconds": seconds, "rollouts": 8, "trained_tokens": 200})
    log.close()
    page = Page(make_report(tmp_path)[1])
    shown = {curve["label"]: curve["y"] for curve in page.charts["seconds"]["series"]}
    assert shown == {"total": [4.0], "generation": [3.0], "update": [1.0]}
    assert page.points("throughput", "sampled") == [(0, 80.0)]  # 8 responses of 40 tokens in 4 s
    assert page.points("throughput", "trained") == [(0, 50.0)]


def test_sft_is_shown_beyond_its_loss(tmp_path):
    write_sft(tmp_path / "srt")
    path = tmp_path / "srt" / "stage2" / "training_log.json"
    log = [line | {"mean_token_accuracy": 0.9, "grad_norm": 2.0, "num_tokens": 100.0} for line in read_json(path)]
    write_json(path, [*log, {"step": 29, "eval_loss": 0.5}, {"step": 29, "train_runtime": 20.0}])
    page = Page(make_report(tmp_path)[1])
    assert page.points("sft_loss", "stage 1")[1] == (2, 0.5)
    assert page.points("sft_loss", "stage 2, validation") == [(29, 0.5)]
    assert page.points("sft_accuracy", "stage 2")[0] == (1, 0.9)
    assert page.points("sft_grad_norm", "stage 2")[0] == (1, 2.0)
    assert "stage 2: 29 updates in 20 s, 5 tokens per second" in page.text


def test_an_unfinished_stage_of_sft_shows_what_its_newest_checkpoint_holds(tmp_path):
    for step in (9, 10):
        history = [{"step": index, "loss": 1.0} for index in range(1, step + 1)]
        write_json(
            tmp_path / "srt" / "stage1.work" / f"checkpoint-{step}" / "trainer_state.json",
            {"log_history": history},
        )
    page = Page(make_report(tmp_path)[1])
    assert len(page.points("sft_loss", "stage 1")) == 10
    assert "stage 1 is not finished" in page.text


@pytest.mark.parametrize(("r1", "expected"), [(0.1, False), (0.001, True), (0.0, False)])
def test_an_axis_is_logarithmic_where_one_curve_would_hide_the_other(r1, expected):
    series = [Series("r = 0", [(0, 3.0), (1, 2.0)]), Series("r = 1", [(0, r1), (1, r1)])]
    assert Chart("kl", "KL", "", series).as_data()["log"] is expected


def test_two_runs_are_overlaid(tmp_path):
    from srt.report.run import report

    for name in ("one", "two"):
        write_distillation(tmp_path / name / "self_distillation", steps=3 if name == "one" else 5)
        write_distillation_logs(tmp_path / name / "self_distillation")
    report([str(tmp_path / "one"), str(tmp_path / "two"), f"output_dir={tmp_path / 'out'}"])
    page = Page((tmp_path / "out" / "report.html").read_text())
    assert page.data["charts"]["runs"] == ["one", "two"]
    curves = {curve["label"]: (curve["run"], len(curve["x"])) for curve in page.charts["kl"]["series"]}
    assert curves == {"one: r = 0": (0, 3), "two: r = 0": (1, 5), "one: r = 1": (0, 3), "two: r = 1": (1, 5)}
    assert {curve["label"] for curve in page.charts["seconds"]["series"]} == {"one: total", "two: total"}
