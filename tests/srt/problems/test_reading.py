"""Problem files: accepted formats, and the messages about files and lines that cannot be read."""

import datetime
import json
import re

import pyarrow
import pyarrow.parquet
import pytest

from srt.common.errors import UserError
from srt.common.files import read_jsonl
from srt.problems import load_problems, set_aside_bad_records
from tests.srt.helpers.problem_files import RECORDS, write


@pytest.fixture(params=["json", "jsonl", "parquet"])
def file(request, tmp_path):
    return tmp_path / f"problems.{request.param}"


# Formats ------------------------------------------------------------------------------------------------


def test_all_formats_give_the_same_problems_in_their_order(file):
    loaded = load_problems(write(file, RECORDS))
    assert [(p.id, p.x, p.answer, p.source, p.mode) for p in loaded.problems] == [
        ("a", "1 + 1?", "2", "school", "math"),
        ("b", "2 + 2?", "4", "school", "math"),
        ("c", "3 + 3?", "6", "school", "math"),
    ]
    assert loaded.bad == []
    assert loaded.fingerprint == load_problems(write(file.with_name("same.jsonl"), RECORDS)).fingerprint


def test_unicode_line_separators_do_not_end_a_line(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text('{"problem": "one\u2028two\u0085", "answer": "1"}\r\n', encoding="utf-8")
    assert load_problems(str(path)).problems[0].x == "one\u2028two"  # and the text is stripped


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_a_byte_order_mark_is_skipped(tmp_path, suffix):
    path = tmp_path / f"problems.{suffix}"
    write(path, RECORDS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(load_problems(str(path)).problems) == 3


# Bad files ----------------------------------------------------------------------------------------------


def refused(path, match):
    with pytest.raises(UserError) as caught:
        load_problems(str(path))
    assert re.search(match, str(caught.value))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file(file):
    refused(file, "no such data file")


def test_a_file_without_records(file):
    if file.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"problem": pyarrow.array([], pyarrow.string())}), file)
    else:
        file.write_text("[]" if file.suffix == ".json" else "\n\n")
    refused(file, "contains no records")


@pytest.mark.parametrize(
    ("suffix", "match"),
    [("json", "line 1: not JSON"), ("jsonl", "contains no records"), ("parquet", "not readable as parquet")],
)
def test_a_file_of_zero_bytes(tmp_path, suffix, match):
    path = tmp_path / f"problems.{suffix}"
    path.touch()
    refused(path, match)


@pytest.mark.parametrize(
    ("suffix", "match"),
    [
        ("json", "line 1: not JSON"),
        ("jsonl", r"2 of 2 records cannot be used; the first is .*, line 1: not JSON"),
        ("parquet", "not readable as parquet"),
    ],
)
def test_a_file_of_something_else(tmp_path, suffix, match):
    path = tmp_path / f"problems.{suffix}"
    path.write_text("problem,answer\n1 + 1?,2\n")
    refused(path, match)


def test_json_that_is_not_a_list(tmp_path):
    path = tmp_path / "problems.json"
    path.write_text('{"problem": "1 + 1?", "answer": "2"}')
    refused(path, "expected a list of records, found dict")


def test_the_line_of_broken_json_is_named(tmp_path):
    path = tmp_path / "problems.json"
    path.write_text('[\n{"problem": "1 + 1?", "answer": "2"},\n{"problem": }\n]')
    refused(path, "line 3: not JSON")


@pytest.mark.parametrize("name", ["problems.csv", "./problems"])
def test_a_name_that_is_neither_a_known_file_nor_on_the_hub(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    refused(name, r"problems.*: neither a local file \(\.json, \.jsonl, \.parquet\) nor a dataset")


# Bad lines ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"problem": "1 + 1?", "answ', "not JSON"),
        ("5", "expected a JSON object, found int"),
        ('"text"', "expected a JSON object, found str"),
        ("null", "expected a JSON object, found NoneType"),
        (
            '{"title": "1 + 1?", "answer": "2"}',
            "no problem text: expected one of problem, question, prompt, found title, answer",
        ),
        ('{"problem": "", "answer": "2"}', "no problem text"),
        ('{"problem": ["1 + 1?"], "answer": "2"}', "no problem text"),
        ('{"problem": "1 + 1?"}', "no answer: expected a non-empty value in one of answer, solution"),
        ('{"problem": "1 + 1?", "answer": null}', "no answer"),
        ('{"problem": "1 + 1?", "answer": " "}', "no answer"),
        ('{"problem": "1 + 1?", "answer": true}', "no answer"),
        ('{"problem": "1 + 1?", "answer": NaN}', "no answer"),
        ('{"problem": "1 + 1?", "answer": "\\\\boxed{}"}', "the answer is empty"),
        ('{"problem": "1 + 1?", "answer": "####"}', "the answer is empty"),
        ("{}", "no problem text"),
    ],
)
def test_a_bad_line_is_set_aside_with_its_number_and_reason(tmp_path, line, reason):
    path = tmp_path / "problems.jsonl"
    good = [json.dumps(record) for record in RECORDS]
    path.write_text("\n".join([good[0], "", line, *good[1:]]) + "\n")
    loaded = load_problems(str(path))
    assert [p.id for p in loaded.problems] == ["a", "b", "c"]
    (bad,) = loaded.bad
    assert bad["place"] == f"{path}, line 3"  # as in an editor, counting blank lines
    assert reason in bad["reason"]


@pytest.mark.parametrize("record", ["text", 5, None, [1]])
def test_an_entry_of_a_json_list_that_is_not_an_object_is_set_aside(tmp_path, record):
    loaded = load_problems(write(tmp_path / "problems.json", [*RECORDS, record]))
    assert len(loaded.problems) == 3
    assert "expected a JSON object" in loaded.bad[0]["reason"]
    assert loaded.bad[0]["place"].endswith(", record 4")


def test_records_set_aside_can_be_written_as_json(tmp_path):
    day = datetime.datetime(2025, 1, 2)
    records = [record | {"when": day, "raw": b"\x00"} for record in RECORDS]
    loaded = load_problems(write(tmp_path / "problems.parquet", [*records, {"when": day, "raw": b"\xff"}]))
    (bad,) = json.loads(json.dumps(loaded.bad))
    assert bad["place"].endswith(", row 4") and "2025" in bad["record"]["when"]


def test_mostly_bad_records_stop_the_run_with_the_first_place_and_reason(tmp_path):
    path = tmp_path / "problems.jsonl"
    good = json.dumps(RECORDS[0])
    path.write_text("\n".join([good, "{broken", '{"problem": "x?"}']) + "\n")
    refused(path, r"2 of 3 records cannot be used; the first is .*, line 2: not JSON")
    path.write_text("\n".join([good, "{broken"]) + "\n")
    assert len(load_problems(str(path)).problems) == 1  # half is not most


def test_odd_ids_and_texts_are_set_aside_each_with_its_reason(tmp_path):
    """As JSON escapes and as NaN, which Python's reader takes; the file with the reasons can be written."""
    lines = [
        r'{"id": NaN, "problem": "1 + 1?", "answer": "2"}',
        r'{"id": NaN, "problem": "1 + 2?", "answer": "3"}',
        r'{"id": "a\ud83d", "problem": "1 + 3?", "answer": "4"}',
        r'{"id": "b", "problem": "1 \udc00 3?", "answer": "4"}',
        r'{"id": "c", "problem": "1 + 4?", "answer": "5"}',
    ]
    path = tmp_path / "problems.jsonl"
    path.write_text("\n".join(lines))
    loaded = load_problems(str(path))
    assert [p.x for p in loaded.problems] == ["1 + 1?", "1 + 2?", "1 + 4?"]
    assert [record["reason"][:17] for record in loaded.bad] == ["not valid Unicode"] * 2
    set_aside_bad_records(loaded, tmp_path)
    assert [line["record"]["answer"] for line in read_jsonl(tmp_path / "bad_records.jsonl")] == ["4", "4"]


def test_a_hub_that_fails_without_a_word_is_one_sentence(monkeypatch):
    def fail(*_, **__):
        raise ConnectionError

    monkeypatch.setattr("datasets.load_dataset", fail)
    with pytest.raises(
        UserError, match=r"^some/data: neither a local file .*\(ConnectionError: ConnectionError\)"
    ):
        load_problems("some/data")
