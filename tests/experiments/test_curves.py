"""Validation curves: which runs are one curve, their means, and the differences at the end."""

import json

import pytest

from experiments.one_gpu.curves import read_curves, summary, table, write_curves
from experiments.one_gpu.plan import PLAN, Layout, load_jobs
from srt.common.errors import UserError
from srt.common.files import write_jsonl


@pytest.fixture
def carried(tmp_path):
    """The jobs of carry_over.yaml and a folder where three of its four runs were validated."""
    jobs, layout = load_jobs(PLAN.with_name("carry_over.yaml")), Layout(tmp_path / "out", "base")
    for name, accuracies in {
        "synchronous": {-1: 0.2, 4: 0.3, 9: 0.4},
        "synchronous_seed1": {-1: 0.2, 4: 0.4, 9: 0.6},
        "over_issue": {-1: 0.2, 4: 0.35, 9: 0.45},
    }.items():
        layout.folder(name).mkdir(parents=True)
        lines = [
            {"step": step, "avg_at_k": value, "response_tokens": 100 * value} for step, value in accuracies.items()
        ]
        write_jsonl(layout.folder(name) / "validation.jsonl", lines)
    return jobs, layout


def test_runs_of_several_seeds_are_one_curve(carried):
    curves = read_curves(*carried)
    assert {name: list(runs) for name, runs in curves.items()} == {
        "synchronous": ["synchronous", "synchronous_seed1"],
        "over_issue": ["over_issue"],
    }
    found = summary(curves)
    assert list(found["synchronous"]) == ["0", "5", "10"]
    assert found["synchronous"]["10"] == {
        "avg_at_k": pytest.approx(0.5),
        "runs": [0.4, 0.6],
        "response_tokens": pytest.approx(50),
    }
    assert table(found).splitlines()[2:] == [
        "| synchronous | 20.0 | 35.0 | 50.0 | 40.0, 60.0 | +0.0 |",
        "| over_issue | 20.0 | 35.0 | 45.0 | 45.0 | -5.0 |",
    ]


def test_a_step_that_a_run_has_not_reached_has_no_mean(carried):
    jobs, layout = carried
    write_jsonl(
        layout.folder("synchronous_seed1") / "validation.jsonl",
        [{"step": -1, "avg_at_k": 0.3, "response_tokens": 1.0}],
    )
    assert list(summary(read_curves(jobs, layout))["synchronous"]) == ["0"]


def test_plot_table_and_json_are_written(carried, tmp_path, capsys):
    write_curves(*carried, tmp_path / "curves")
    assert (tmp_path / "curves" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "curves" / "curves.md").read_text() in capsys.readouterr().out
    assert json.loads((tmp_path / "curves" / "curves.json").read_text())["over_issue"]["5"]["runs"] == [0.35]


def test_a_folder_without_validations_is_refused(tmp_path):
    with pytest.raises(UserError, match="no run of Phase 2 has been validated"):
        read_curves(load_jobs(PLAN), Layout(tmp_path, "base"))
