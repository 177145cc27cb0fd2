"""Differences between several runs, and their evaluations side by side."""

from srt.common.files import read_json, write_json
from srt.report.data import read_run
from srt.report.folders import find_run
from srt.report.knobs import differing_knobs, unknown_knobs
from srt.report.run import report
from tests.srt.helpers.report_runs import Page, write_collection, write_distillation, write_evaluation


def change(path, **knobs) -> None:
    record = read_json(path)
    write_json(path, record | {"config": record["config"] | knobs})


def test_knobs_that_differ_are_listed_and_places_are_not(tmp_path):
    for name, lr, model in (("one", 1e-4, "/x/one/srt/stage2"), ("two", 2e-4, "/x/two/srt/stage2")):
        write_distillation(tmp_path / name / "self_distillation", steps=2)
        run_file = tmp_path / name / "self_distillation" / "run.json"
        change(run_file, lr=lr, student_model=model, output_dir=name, topk=None)
    change(tmp_path / "two" / "self_distillation" / "run.json", new_knob=1)
    write_collection(tmp_path / "one" / "collection")  # of one run alone: nothing to compare
    runs = [read_run(find_run(tmp_path / name)) for name in ("one", "two")]
    assert differing_knobs(runs) == [["distill.sh", "lr", "0.0001", "0.0002"]]
    assert unknown_knobs(runs) == {"distill.sh": ["new_knob"]}


def test_the_page_of_two_runs_names_their_differences_and_each_run_in_the_table(tmp_path, capsys):
    for name, correct in (("one", 2), ("two", 6)):
        write_distillation(tmp_path / name / "self_distillation", steps=2)
        write_evaluation(tmp_path / name / "evaluation" / "sd_zero", correct=correct)
    change(tmp_path / "one" / "self_distillation" / "run.json", lr=1e-4)
    change(tmp_path / "two" / "self_distillation" / "run.json", lr=3e-3)
    report([str(tmp_path / "one"), str(tmp_path / "two"), f"output_dir={tmp_path / 'out'}"])
    page = Page((tmp_path / "out" / "report.html").read_text())
    assert "Differences of the runs" in page.headings and "0.003" in page.text
    assert "one: after self-distillation (SD-Zero)" in page.text and "two: SD-Zero" in page.text
    assert "one: after self-distillation" in capsys.readouterr().out
    summary = read_json(tmp_path / "out" / "summary.json")
    stage = "after self-distillation (SD-Zero)"
    assert summary[f"one: {stage}"]["avg_at_8"] == 0.625 and summary[f"two: {stage}"]["avg_at_8"] == 0.875


def test_runs_with_the_same_knobs_are_said_to_have_them(tmp_path):
    for name in ("one", "two"):
        write_distillation(tmp_path / name / "self_distillation", steps=2)
    report([str(tmp_path / "one"), str(tmp_path / "two"), f"output_dir={tmp_path / 'out'}"])
    assert "the same knobs" in Page((tmp_path / "out" / "report.html").read_text()).text
