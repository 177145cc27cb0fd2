"""Reuse of another evaluation's samples: those that this one would have logged itself, and nothing damaged."""

import json

import pytest

from srt.common.files import read_jsonl, write_json
from srt.contract.records import Response, Revision, SampleKey, as_line, pack_ids
from srt.evaluation.reuse import reuse_samples

IDENTITY = {"model": "m", "seed": 0}
IDS = pack_ids([5, 2])


def response(problem: int, index: int = 0, logprob: float | None = None) -> str:
    record = Response(
        problem, index, f"p{problem}", "", "x", "1", "a", IDS, 2, False, "", "", "stop", 7, y_init_logprob=logprob
    )
    return json.dumps(as_line(record))


def revision(problem: int, index: int = 0) -> str:
    return json.dumps(as_line(Revision(problem, index, 0, "again", "b", IDS, 2, True, "1", "", "stop", 8)))


def set_aside(*key: int | None) -> str:
    return json.dumps({"key": key, "kind": "a"})


@pytest.fixture
def reused(tmp_path, monkeypatch):
    """reused(lines of another evaluation's log): the keys of the samples that a new one takes from it."""
    monkeypatch.setattr("srt.evaluation.reuse.PHASE1", tmp_path / "nothing")

    def reuse(lines, run=None, aside=(), needs_logprob=lambda key: False):
        write_json(tmp_path / "other" / "run.json", {"identity": IDENTITY} if run is None else run)
        for name, content in (("attempts", lines), ("set_aside", aside)):
            encoded = [line if isinstance(line, bytes) else line.encode() for line in content]
            (tmp_path / "other" / f"{name}.jsonl").write_bytes(b"".join(line + b"\n" for line in encoded))
        folder = tmp_path / "new"
        reuse_samples(folder, folder, IDENTITY, {"m": "1"}, lambda r: "again", needs_logprob)
        log = tmp_path / "new" / "attempts.jsonl"
        taken = read_jsonl(log) if log.exists() else []
        return [(line["problem_idx"], line["response_idx"], line.get("revision_idx")) for line in taken]

    return reuse


def test_a_whole_log_is_reused(reused, tmp_path):
    keys = reused([response(0), revision(0), response(1)], aside=[set_aside(2, 0, None), set_aside(1, 0, 0)])
    assert keys == [(0, 0, None), (0, 0, 0), (1, 0, None)]
    assert [line["key"] for line in read_jsonl(tmp_path / "new" / "set_aside.jsonl")] == [[2, 0, None]]


@pytest.mark.parametrize("line", ["{", "[1]", "null", "{}", revision(7), b"\xff\xfe", '{"kind": "response"}'])
def test_a_damaged_line_of_another_evaluation_is_left_there(reused, line):
    assert reused([response(0), line, response(1)]) == [(0, 0, None), (1, 0, None)]


@pytest.mark.parametrize("line", ["{", "[1]", "null", "{}", b"\xff\xfe", '{"key": 5}', '{"key": ["a", 0]}'])
def test_so_is_one_of_what_it_set_aside(reused, tmp_path, line):
    assert reused([response(0)], aside=[line, set_aside(2, 0, None)]) == [(0, 0, None)]
    assert len(read_jsonl(tmp_path / "new" / "set_aside.jsonl")) == 1


@pytest.mark.parametrize("run", [[1], {"identity": [1]}, {"identity": IDENTITY, "revisions": [1]}])
def test_a_damaged_run_json_of_another_evaluation_is_no_reason_to_stop(reused, run):
    assert reused([response(0)], run) == []


def test_a_response_without_the_log_prob_that_is_needed_is_sampled_again_with_its_revision(reused):
    lines = [response(0, 0, -1.0), revision(0, 0), response(0, 1), revision(0, 1), response(1, 0)]
    needed = reused(lines, needs_logprob=lambda key: key != SampleKey(1, 0))
    assert needed == [(0, 0, None), (0, 0, 0), (1, 0, None)]
