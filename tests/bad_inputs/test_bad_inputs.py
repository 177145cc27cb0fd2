"""Each bad input to a real entry point: exit code 2, one clear sentence on stderr, and nothing half-written."""

import os
import sys
from pathlib import Path

import pytest

from tests.bad_inputs import data_cases, knob_cases, model_cases, state_cases
from tests.bad_inputs.place import Case, Place
from tests.end_to_end.commands import Outcome, the_error
from tests.end_to_end.conftest import call  # noqa: F401 - a fixture

CASES: list[Case] = [*data_cases.CASES, *model_cases.CASES, *knob_cases.CASES, *state_cases.CASES]
LONGEST = 900  # characters of a sentence
# What may be there after a refusal: a run that had begun. Everything else appears only when it is complete.
OF_A_BEGUN_RUN = {"run.json", "bad_records.jsonl", "attempts.jsonl", "set_aside.jsonl", "metrics.jsonl"}


def test_the_list_has_at_least_150_inputs_and_no_name_twice():
    names = [case.name for case in CASES]
    assert len(names) >= 150
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bad_input(call, tiny_checkpoint, tmp_path, case):  # noqa: F811
    place = Place(tmp_path, tiny_checkpoint, case.entry_point)
    knobs = place.good
    knobs |= case.spoil(place)
    before = {path: path.stat().st_mtime_ns for path in files(tmp_path)}
    outcome: Outcome = call(case.entry_point, knobs, *case.arguments)
    sentence = the_error(outcome)
    assert case.sentence in sentence, sentence
    assert len(sentence) < LONGEST + 3 * len(str(tmp_path)), sentence
    after = {path: path.stat().st_mtime_ns for path in files(tmp_path)}
    assert not before.keys() - after.keys()
    new = {path for path in after if path not in before}
    assert {path.name for path in new} <= OF_A_BEGUN_RUN, new
    changed = {path.name for path in before if after[path] != before[path]}
    assert changed <= OF_A_BEGUN_RUN - {"run.json"}, changed


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="gives up root for a moment")
def test_a_file_without_permission(call, tiny_checkpoint, tmp_path):  # noqa: F811
    place = Place(tmp_path, tiny_checkpoint, "prepare")
    path = place.write("output/d_revision.json", [])
    path.chmod(0)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and folder.name.startswith(("pytest-", "test_", "popen-")):
            folder.chmod(0o755)
    knobs = place.good
    os.seteuid(65534)
    try:
        outcome = call("prepare", knobs)
    finally:
        os.seteuid(0)
    assert "d_revision.json: cannot be read (Permission denied)" in the_error(outcome)
