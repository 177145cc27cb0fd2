"""localize.sh on the outputs of a whole run: each kind of RUN, and killed while it scores."""

import json
import signal

import pytest

from tests.end_to_end.commands import count_lines, interrupt_script, run_script, the_error


def localization(folder) -> dict:
    return json.loads((folder / "localization.json").read_text())


@pytest.mark.parametrize("folder", ["collection", "sd_zero", "evaluation/sd_zero"])
def test_every_step_of_a_run_can_be_read_without_naming_a_model(full_run, tmp_path, folder):
    run = full_run.folder / folder
    knobs = {"RUN": run, "OUTPUT_DIR": tmp_path / "out", "MAX_SAMPLES": 6, "PROMPT_SUFFIX": ""}
    outcome = run_script("localize", knobs)
    assert outcome.code == 0, outcome
    (pair,) = localization(tmp_path / "out")["pairs"]
    assert 0 < pair["responses"] <= 6
    config = json.loads((run / "run.json").read_text())["config"]
    assert pair["student"] in (config.get("model_path"), config.get("student_model"))
    assert "localization.html" in outcome.out


def test_a_killed_localization_continues_and_ends_as_if_it_had_not_been(full_run, tmp_path):
    """Batches of one response, so that there is much to kill it in; the pages are equal to the byte."""
    run = full_run.folder / "evaluation" / "sd_zero"
    knobs = {"RUN": run, "PROMPT_SUFFIX": "", "PAIR_NAMES": "pair", "TOKENS_PER_MICRO_BATCH": 1}
    killed, whole = knobs | {"OUTPUT_DIR": tmp_path / "killed"}, knobs | {"OUTPUT_DIR": tmp_path / "whole"}
    scores = tmp_path / "killed" / "pair" / "scores.jsonl"
    interrupt_script("localize", killed, signal.SIGKILL, lambda: count_lines(scores) >= 3)
    assert not (tmp_path / "killed" / "localization.json").exists()
    done = count_lines(scores)
    again = run_script("localize", killed)
    assert again.code == 0 and f"pair: {done} scored responses restored" in again.out, again
    assert run_script("localize", whole).code == 0
    for name in ("localization.json", "localization.html"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({}, "STUDENT_MODEL is not set"),
        ({"STUDENT_MODEL": "/nowhere/model"}, "/nowhere/model: no such checkpoint folder"),
        ({"RUN": "/nowhere"}, "RUN=/nowhere is not a folder"),
        ({"STUDENT_MODEL": "x", "ALTERNATIVES": 0}, "ALTERNATIVES=0: must be at least 1"),
        ({"STUDENT_MODEL": "x", "EXAMPLES": "some"}, "EXAMPLES=some: expected a whole number"),
    ],
)
def test_what_cannot_work_is_one_sentence(tmp_path, knobs, message):
    outcome = run_script("localize", knobs | {"OUTPUT_DIR": tmp_path / "out"})
    assert message in the_error(outcome)
    assert not (tmp_path / "out").exists()
