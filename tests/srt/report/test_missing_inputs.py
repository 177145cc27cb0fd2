"""Inputs that are missing, unfinished or broken, and an output folder that cannot be written."""

import pytest

from srt.common.errors import UserError
from srt.common.files import read_json, write_json
from srt.contract.provenance import open_run
from srt.report.run import report
from tests.srt.helpers.report_runs import Page, make_report, write_collection, write_distillation, write_evaluation


def test_a_report_of_an_evaluation_alone_names_what_is_left_out(tmp_path, capsys):
    write_evaluation(tmp_path / "evaluation" / "sd_zero", correct=8)
    report([f"evaluation={tmp_path / 'evaluation'}", f"output_dir={tmp_path}", f"srt={tmp_path / 'nowhere'}"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out")]
    assert len(lines) == 1
    nowhere = f"SRT={tmp_path / 'nowhere'} is not a folder"
    for part in ("base/evaluation.json is missing", "COLLECTION is not set", nowhere):
        assert part in lines[0]
    assert set(read_json(tmp_path / "summary.json")) == {"sd_zero"}
    page = Page((tmp_path / "report.html").read_text())
    assert "Evaluation" in page.headings and not [h for h in page.headings if h.startswith("Phase")]


def test_the_knob_evaluation_accepts_a_single_evaluation(tmp_path):
    write_evaluation(tmp_path / "eval_my-model", correct=8)
    report([f"evaluation={tmp_path / 'eval_my-model'}", f"output_dir={tmp_path / 'out'}"])
    assert set(read_json(tmp_path / "out" / "summary.json")) == {"eval_my-model"}


def test_a_run_without_evaluation_gets_plots_and_an_empty_summary(tmp_path):
    write_distillation(tmp_path / "distillation")
    summary, html = make_report(tmp_path)
    assert summary == {} and "Reward" in Page(html).headings


def test_an_unfinished_collection_or_evaluation_is_reported(tmp_path, capsys):
    open_run(tmp_path / "collection", {}, {"model_path": "m", "dataset": "d", "mode": "math", "seed": 0})
    open_run(tmp_path / "evaluation" / "extra", {}, {})
    page = Page(make_report(tmp_path)[1])
    output = capsys.readouterr().out
    assert f"{tmp_path / 'collection'} is not finished" in output and "extra/evaluation.json is missing" in output
    assert not [heading for heading in page.headings if heading.startswith("Phase")]


def test_a_report_of_nothing_is_an_error_that_says_what_to_set(tmp_path):
    with pytest.raises(UserError, match="nothing to report .*EVALUATION is not set.*set EVALUATION, COLLECTION"):
        report([f"output_dir={tmp_path / 'out'}"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="base/evaluation.json is missing"):
        report([f"evaluation={tmp_path / 'empty'}", f"output_dir={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()


def test_a_broken_or_foreign_evaluation_is_an_error_with_its_path(tmp_path):
    path = tmp_path / "evaluation" / "base" / "evaluation.json"
    write_json(path, {"accuracy": 1})
    with pytest.raises(UserError, match="base/evaluation.json: no avg_at_k"):
        make_report(tmp_path)
    path.write_text("{")
    with pytest.raises(UserError, match="base/evaluation.json: not readable as JSON"):
        make_report(tmp_path)


def test_an_output_that_cannot_be_written_is_an_error_with_its_path(tmp_path):
    write_collection(tmp_path / "collection")
    (tmp_path / "out").write_text("a file stands where the folder should be")
    with pytest.raises(UserError, match="summary.json: cannot be written"):
        make_report(tmp_path)
