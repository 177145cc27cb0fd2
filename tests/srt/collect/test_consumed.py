"""Which problems a training set has used: the file, and how texts are compared."""

import json

import pytest

from srt.collect.consumed import (
    DISTILL_PROBLEMS,
    SRT_PROBLEMS,
    consumed_by_checkpoint,
    overlap,
    read_consumed,
    text_sha256,
    write_consumed,
)
from srt.common.errors import UserError
from srt.contract.records import Problem

PROBLEMS = [Problem("a", "What is 1 + 1?", "2"), Problem("b", "Straße", "1"), Problem("c", "\ud800 x", "1")]


def test_what_is_written_is_read_and_has_the_documented_form(tmp_path):
    path = tmp_path / "p_problems.jsonl"
    write_consumed(path, PROBLEMS)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    # printf 'what is 1 + 1?' | sha256sum
    digest = "99f829c3d56f05938519bed899e8748a"
    assert [line["id"] for line in lines] == ["a", "b", "c"] and lines[0]["text_sha256"][:32] == digest
    assert all(set(line) == {"id", "text_sha256"} and len(line["text_sha256"]) == 64 for line in lines)
    assert read_consumed(path) == {text_sha256(problem.x): problem.id for problem in PROBLEMS}


def test_white_space_and_case_do_not_make_another_problem_and_a_word_does(tmp_path):
    write_consumed(tmp_path / "used.jsonl", PROBLEMS)
    consumed = read_consumed(tmp_path / "used.jsonl")
    same = [Problem("x", "\n what  IS 1\t+ 1? ", "2"), Problem("y", "STRASSE", "1")]
    others = [Problem("a", "What is 1 + 2?", "3"), Problem("b", "What is 1+ 1?", "2")]  # with ids that were used
    assert overlap([*others, *same], consumed) == same
    assert overlap(others, consumed) == []


def test_a_checkpoint_names_the_problems_of_the_phases_it_records(tmp_path):
    assert consumed_by_checkpoint(str(tmp_path)) == {}
    write_consumed(tmp_path / SRT_PROBLEMS, PROBLEMS[:1])
    assert consumed_by_checkpoint(str(tmp_path)) == {"Phase 1": {text_sha256(PROBLEMS[0].x): "a"}}
    write_consumed(tmp_path / DISTILL_PROBLEMS, PROBLEMS[1:])
    assert set(consumed_by_checkpoint(str(tmp_path))["Phase 2"].values()) == {"b", "c"}


@pytest.mark.parametrize("line", ["[1]", '"text"', '{"id": "a"}'])
def test_a_file_of_something_else_is_an_error_with_its_line(tmp_path, line):
    path = tmp_path / "used.jsonl"
    write_consumed(path, PROBLEMS[:1])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(
        UserError, match=r"used\.jsonl, line 2: expected a (JSON object|problem's id and text_sha256)"
    ):
        read_consumed(path)
