"""The curves of Phase 2: resumed runs, gaps, smoothing."""

import numpy as np
import pytest

from opsd.run_log import MetricsLog, open_step_log
from srt.report.data import read_run
from srt.report.plots import metric_points, smooth
from tests.srt.helpers.report_runs import Page, make_report, sample, step_metrics, write_distillation


def test_a_resumed_run_has_every_step_once_with_its_latest_metrics(tmp_path, capsys):
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

    run = read_run(None, None, None, str(folder))
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
    assert ("KL to the teacher" in page.headings) == bool(rewards)
    assert "Reward" in page.headings


def test_a_metric_that_is_not_finite_leaves_a_gap(tmp_path):
    log = MetricsLog(tmp_path / "distillation", 0, "none")
    for step in range(3):
        log.write(step, step_metrics(step) | ({"kl_r0": float("nan")} if step == 1 else {}))
    log.close()
    run = read_run(None, None, None, str(tmp_path / "distillation"))
    assert metric_points(run.steps, "kl_r0") == [(0, 0.1), (2, 0.1)]
    assert metric_points(run.steps, "kl_r1", shift=1) == [(1, 0.1), (2, 0.1), (3, 0.1)]


def test_smoothing_preserves_constants_and_shifts_nothing():
    assert np.allclose(smooth(np.full(30, 0.7), 7), 0.7)
    line = np.arange(30.0)
    assert np.allclose(smooth(line, 7)[3:-3], line[3:-3])
