"""Damaged lines of attempts.jsonl: left out with a line that says so, and sampled again as they were."""

import json
from pathlib import Path

import pytest

from quickstart.tokenizer import build_tokenizer
from srt.collect.attempts import Attempts
from srt.common.files import read_jsonl
from srt.contract.layout import Layout, PromptFormat
from srt.contract.phrases import PHRASE_SETS
from srt.contract.records import Problem, Response, Revision, SampleKey, as_line, pack_ids

PHRASES = PHRASE_SETS["qwen"]
PROBLEMS = [Problem(f"p{number}", f"x = {number}", "1") for number in range(3)]


@pytest.fixture(scope="module")
def layout():
    tokenizer = build_tokenizer()
    return Layout(tokenizer, PHRASES, PromptFormat(prompt_suffix=""), [tokenizer.eos_token_id])


def response(problem: int) -> Response:
    x = PROBLEMS[problem].x
    return Response(problem, 0, f"p{problem}", "", x, "1", "a", pack_ids([5, 2]), 2, False, "", "", "stop", 7)


def revision(problem: int) -> Revision:
    return Revision(problem, 0, 0, PHRASES.wrong, "b", pack_ids([6, 2]), 2, True, "1", "", "stop", 8)


def write_log(folder: Path) -> list[str]:
    """Of each problem a response and its revision."""
    lines = [json.dumps(as_line(record)) for p in range(3) for record in (response(p), revision(p))]
    (folder / "attempts.jsonl").write_text("\n".join(lines) + "\n")
    return lines


def restored(folder: Path, layout: Layout) -> tuple[list[int], list[int]]:
    """The problems whose response and whose revision need not be sampled again."""
    attempts = Attempts(folder, PROBLEMS, layout, cleaning=False)
    attempts.close()
    return sorted(key.problem for key in attempts.responses), sorted(key.problem for key in attempts.revisions)


def test_a_whole_log_is_restored_without_a_word(tmp_path, layout, capsys):
    write_log(tmp_path)
    assert restored(tmp_path, layout) == ([0, 1, 2], [0, 1, 2])
    assert "damaged" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "line",
    [
        "null",
        "{}",
        "[]",
        "5",
        "{",
        '{"kind": "response"}',
        '{"kind": "poem"}',
        json.dumps(as_line(response(1)) | {"y_init_tokens": "2"}),
        json.dumps(as_line(response(1)) | {"y_init_correct": 1}),
        json.dumps(as_line(response(1)) | {"problem_idx": -1}),
        json.dumps(as_line(response(1)) | {"x": "x = 7"}),
        json.dumps(as_line(response(1)) | {"extra": 1}),
        json.dumps(as_line(response(1)) | {"y_init_ids": "!" + response(1).y_init_ids[1:]}),
    ],
)
def test_a_damaged_response_is_left_out_with_its_revision(tmp_path, layout, capsys, line):
    lines = write_log(tmp_path)
    (tmp_path / "attempts.jsonl").write_text("\n".join([*lines[:2], line, *lines[3:]]) + "\n")
    assert restored(tmp_path, layout) == ([0, 2], [0, 2])
    assert "attempts.jsonl: 2 lines are damaged (the first: line 3); left out" in capsys.readouterr().out


def test_bytes_that_are_no_utf8_are_one_damaged_line(tmp_path, layout, capsys):
    lines = write_log(tmp_path)
    data = "\n".join([*lines[:3], "\x00", *lines[4:]]).encode() + b"\n"
    (tmp_path / "attempts.jsonl").write_bytes(data.replace(b"\x00", b"\xff\xfe"))
    assert restored(tmp_path, layout) == ([0, 1, 2], [0, 2])
    assert "attempts.jsonl: line 4 is damaged; left out" in capsys.readouterr().out


def test_a_line_that_was_lost_and_one_that_is_there_twice(tmp_path, layout, capsys):
    lines = write_log(tmp_path)
    (tmp_path / "attempts.jsonl").write_text("\n".join([*lines[1:], lines[5]]) + "\n")
    attempts = Attempts(tmp_path, PROBLEMS, layout, cleaning=False)
    assert attempts.stats.revisions == 2 and len(attempts.kept.in_order()) == 2
    assert not attempts.is_done(SampleKey(0, 0)) and not attempts.is_done(SampleKey(0, 0, 0))
    attempts.add(response(0))  # sampled again
    attempts.add(revision(0))
    attempts.close()
    capsys.readouterr()
    assert restored(tmp_path, layout) == ([0, 1, 2], [0, 1, 2])
    assert len(read_jsonl(tmp_path / "attempts.jsonl")) == 8


@pytest.mark.parametrize("line", ["null", "{}", '{"key": 5, "kind": "a"}'])
def test_a_damaged_line_of_what_was_set_aside(tmp_path, layout, capsys, line):
    write_log(tmp_path)
    whole = json.dumps({"key": [1, 1], "id": "p1", "kind": "a", "reason": "b", "text": ""})
    (tmp_path / "set_aside.jsonl").write_text(f"{whole}\n{line}\n")
    attempts = Attempts(tmp_path, PROBLEMS, layout, cleaning=False)
    attempts.close()
    assert attempts.is_done(SampleKey(1, 1)) and attempts.stats.set_aside == {"a": 1}
    assert "set_aside.jsonl: line 2 is damaged" in capsys.readouterr().out
