"""Which folder is what: the parts of a run are found, and folders of the wrong kind are refused."""

import re
from pathlib import Path

import pytest

from srt.common.errors import UserError
from srt.common.files import read_json, write_json
from srt.report.folders import check_kind, find_run, kind_of, with_distinct_labels
from srt.report.run import knobs_among, report
from tests.end_to_end.commands import run_script
from tests.srt.helpers.report_runs import (
    Page,
    write_collection,
    write_distillation,
    write_evaluation,
    write_run,
    write_sft,
)

WRITERS = {
    "evaluation": lambda folder: write_evaluation(folder, correct=2),
    "collection": write_collection,
    "srt": write_sft,
    "distillation": write_distillation,
}
SCRIPTS = {
    "evaluation": "evaluate.sh",
    "collection": "run_srt_data.sh",
    "srt": "sft.sh",
    "distillation": "distill.sh",
}


@pytest.mark.parametrize("kind", WRITERS)
def test_the_kind_of_a_folder_is_known_from_its_files_and_from_its_knobs(tmp_path, kind):
    WRITERS[kind](tmp_path / "out")
    assert kind_of(tmp_path / "out") == kind
    for path in (tmp_path / "out").iterdir():
        if path.name != "run.json" and path.is_file():
            path.unlink()  # as at the beginning of a run
    knobs = {"collection": {"target_revision_samples": 60}}.get(kind, {})
    record = read_json(tmp_path / "out" / "run.json")
    write_json(tmp_path / "out" / "run.json", record | {"config": record["config"] | knobs})
    assert kind_of(tmp_path / "out") == kind


@pytest.mark.parametrize("knob", WRITERS)
@pytest.mark.parametrize("kind", WRITERS)
def test_a_folder_of_another_step_is_refused_with_the_right_knob(tmp_path, knob, kind):
    WRITERS[kind](tmp_path / "out")
    if kind == knob:
        check_kind(knob.upper(), tmp_path / "out")
        return
    with pytest.raises(UserError) as error:
        report([f"{knob}={tmp_path / 'out'}", f"output_dir={tmp_path / 'report'}"])
    assert str(error.value) == (
        f"{knob.upper()}={tmp_path / 'out'} was written by {SCRIPTS[kind]}, not by {SCRIPTS[knob]}: set "
        f"{kind.upper()} to it"
    )
    assert not (tmp_path / "report").exists()


def test_the_folder_of_a_whole_run_is_no_folder_of_one_step(tmp_path):
    write_run(tmp_path)
    with pytest.raises(UserError, match=f"the folder for SRT is {tmp_path}/srt; or bash scripts/report.sh"):
        report([f"srt={tmp_path}", f"output_dir={tmp_path / 'out'}"])


def test_all_parts_of_a_run_are_found_in_its_folder(tmp_path, capsys):
    write_run(tmp_path / "seed0")
    run = find_run(tmp_path / "seed0")
    parts = {name: getattr(run, name).name for name in WRITERS}
    assert parts == {name: name for name in WRITERS} and run.label == "seed0"
    report([str(tmp_path / "seed0"), f"output_dir={tmp_path / 'out'}"])
    assert "left out" not in "".join(line for line in capsys.readouterr().out.splitlines() if "is not set" in line)
    page = Page((tmp_path / "out" / "report.html").read_text())
    assert {"Evaluation", "Phase 1: supervised fine-tuning"} <= set(page.headings)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_run_may_be_the_output_of_one_step(tmp_path, kind):
    WRITERS[kind](tmp_path / "out")
    assert getattr(find_run(tmp_path / "out"), kind) == tmp_path / "out"


def test_evaluations_beside_the_other_parts_are_reported(tmp_path, capsys):
    run = tmp_path / "run"
    write_collection(run / "collection")
    write_evaluation(run / "eval_base", correct=2)
    assert find_run(run).evaluation == run
    report([str(run), f"output_dir={tmp_path / 'out'}"])
    assert set(read_json(tmp_path / "out" / "summary.json")) == {"eval_base"}
    page = Page((tmp_path / "out" / "report.html").read_text())
    assert "Phase 1: collection of self-revisions" in page.headings
    # The collection is no evaluation that is not finished.
    assert "collection/evaluation.json" not in capsys.readouterr().out


def test_a_second_output_of_a_step_is_named_as_left_out(tmp_path, capsys):
    run = tmp_path / "run"
    for name in ("first", "second"):
        write_collection(run / name)
        write_evaluation(run / f"eval_{name}", correct=2)
    write_evaluation(run / "models" / "a", correct=2)  # of several models, in a folder of their own
    write_json(run / "models" / "evaluation.json", {"models": {}})
    report([str(run), f"output_dir={tmp_path / 'out'}"])
    printed = capsys.readouterr().out
    for folder in ("second", "models"):
        assert f"{run / folder}: another output of that step is shown" in printed
    assert set(read_json(tmp_path / "out" / "summary.json")) == {"eval_first", "eval_second"}


def test_a_run_that_is_named_twice_is_refused(tmp_path):
    write_collection(tmp_path / "run")
    with pytest.raises(UserError, match="run is named twice; name each run once"):
        report([str(tmp_path / "run"), f"{tmp_path}/run/../run", f"output_dir={tmp_path / 'out'}"])


def test_the_comparison_of_several_models_is_not_a_stage_of_its_own(tmp_path):
    write_collection(tmp_path / "run" / "collection")
    for name in ("a", "b"):
        write_evaluation(tmp_path / "run" / "evaluation" / name, correct=2)
    write_json(tmp_path / "run" / "evaluation" / "evaluation.json", {"models": {}})
    assert find_run(tmp_path / "run").evaluation == tmp_path / "run" / "evaluation"
    report([str(tmp_path / "run"), f"output_dir={tmp_path / 'out'}"])
    assert set(read_json(tmp_path / "out" / "summary.json")) == {"a", "b"}
    write_json(tmp_path / "run" / "evaluation" / "evaluation.json", None)
    with pytest.raises(UserError, match="evaluation.json: expected a JSON object, found None"):
        report([f"evaluation={tmp_path / 'run' / 'evaluation'}", f"output_dir={tmp_path / 'out'}"])


def test_the_script_takes_folders_and_knobs_and_refuses_other_words(tmp_path):
    write_distillation(tmp_path / "run", steps=2)
    knobs = {"OUTPUT_DIR": tmp_path / "out"}
    outcome = run_script("report", knobs, str(tmp_path / "run"), "EXAMPLES=1")
    assert outcome.code == 0 and (tmp_path / "out" / "report.html").is_file(), outcome
    for word, reason in (("--wach", "unknown knob '--wach'"), ("runn", "runn: no such folder")):
        outcome = run_script("report", knobs, word)
        assert outcome.code == 2 and outcome.err.startswith(f"error: {reason}"), outcome


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}/none: no such folder"):
        report([str(tmp_path / "none")])
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match="photos is not the output of a run"):
        report([str(tmp_path / "photos")])


def test_folders_and_knobs_together_are_refused(tmp_path):
    write_collection(tmp_path)
    with pytest.raises(UserError, match="COLLECTION: name either the folders of runs, or the knobs"):
        report([str(tmp_path), f"collection={tmp_path}"])


def test_runs_of_the_same_name_are_told_apart(tmp_path):
    paths = [tmp_path / name / "seed0" for name in ("a", "b")]
    for path in paths:
        write_collection(path)
    runs = with_distinct_labels(map(find_run, paths), paths)
    assert [run.label for run in runs] == ["a/seed0", "b/seed0"]


def test_a_dry_run_names_the_parts_that_were_found_and_writes_nothing(tmp_path, capsys):
    write_evaluation(tmp_path / "seed0" / "evaluation" / "srt", correct=4)
    write_collection(tmp_path / "seed0" / "collection")
    before = sorted(tmp_path.rglob("*"))
    report([str(tmp_path / "seed0"), f"output_dir={tmp_path / 'out'}", "--dry-run"])
    assert sorted(tmp_path.rglob("*")) == before
    printed = capsys.readouterr().out
    assert re.search(r"^seed0: evaluations \(.+\), collection \(\d+ tuples\)$", printed, re.MULTILINE)
    assert "  left out: " in printed
    assert printed.endswith(f"report: {tmp_path}/out/report.html\ndry run: nothing was written\n")


def test_the_arguments_that_are_knobs():
    assert knobs_among(["examples=1", str(Path.cwd()), "--watch", "--dry-run", "--nonsense", "RUN"]) == [
        "examples=1",
        "--nonsense",
    ]
