"""Problem files: accepted formats and fields, and what is said about those that cannot be used."""

import datetime
import json
import math
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from srt.common.errors import UserError
from srt.problems import load_problems
from srt.verifiers.math.verify import verify_math

DATA = Path(__file__).parent / "data"
RECORDS = [
    {"id": "a", "problem": "1 + 1?", "answer": "2", "source": "school"},
    {"id": "b", "problem": "2 + 2?", "answer": "4", "source": "school"},
    {"id": "c", "problem": "3 + 3?", "answer": "6", "source": "school"},
]


def write(path, records):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(records, indent=1))
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.fixture(params=["json", "jsonl", "parquet"])
def file(request, tmp_path):
    return tmp_path / f"problems.{request.param}"


def load_one(tmp_path, **record):
    # Two good records beside it, so that a bad one is set aside instead of ending the run.
    return load_problems(write(tmp_path / "problems.jsonl", [record, *RECORDS[1:]]))


# Formats and fields -------------------------------------------------------------------------------------


def test_all_formats_give_the_same_problems_in_their_order(file):
    loaded = load_problems(write(file, RECORDS))
    assert [(p.id, p.x, p.answer, p.source, p.mode) for p in loaded.problems] == [
        ("a", "1 + 1?", "2", "school", "math"),
        ("b", "2 + 2?", "4", "school", "math"),
        ("c", "3 + 3?", "6", "school", "math"),
    ]
    assert loaded.bad == []
    assert loaded.fingerprint == load_problems(write(file.with_name("same.jsonl"), RECORDS)).fingerprint


@pytest.mark.parametrize("question", ["problem", "question", "prompt"])
@pytest.mark.parametrize("answer", ["answer", "solution"])
def test_accepted_fields(file, question, answer):
    loaded = load_problems(write(file, [{question: " 1 + 1? ", answer: " 2 "}]))
    assert [(p.x, p.answer) for p in loaded.problems] == [("1 + 1?", "2")]


def test_the_first_of_several_fields_that_is_not_empty_counts(tmp_path):
    loaded = load_one(tmp_path, prompt="c", question="b", problem=" ", solution=r"\boxed{3}", answer=None)
    assert (loaded.problems[0].x, loaded.problems[0].answer) == ("b", "3")
    assert load_one(tmp_path, problem="a", answer="2", solution=r"\boxed{3}").problems[0].answer == "2"


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        (r"We get $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        ("1 + 1 = <<1+1=2>>2\n#### 2", "2"),
        (7, "7"),
        (-0.5, "-0.5"),
        (0, "0"),
    ],
)
def test_answers_are_extracted_and_numbers_are_taken(tmp_path, given, answer):
    assert load_one(tmp_path, problem="x?", answer=given).problems[0].answer == answer


def test_numbers_in_parquet(tmp_path):
    path = write(tmp_path / "problems.parquet", [{"problem": "x?", "answer": 5}, {"problem": "y?", "answer": 12}])
    assert [p.answer for p in load_problems(path).problems] == ["5", "12"]


def test_text_that_json_allows_inside_of_a_line_does_not_end_it(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text('{"problem": "one\u2028two\u0085", "answer": "1"}\r\n', encoding="utf-8")
    assert load_problems(str(path)).problems[0].x == "one\u2028two"  # and the ends are stripped


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_a_byte_order_mark_is_no_part_of_the_first_record(tmp_path, suffix):
    path = tmp_path / f"problems.{suffix}"
    write(path, RECORDS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(load_problems(str(path)).problems) == 3


# Identity -----------------------------------------------------------------------------------------------


def test_ids_are_the_records_own_or_follow_from_the_text(tmp_path):
    records = [
        {"problem": "a?", "answer": "1", "id": 0},
        {"problem": "b?", "answer": "1", "uuid": "u"},
        {"problem": "c?", "answer": "1"},
        {"problem": "d?", "answer": "1", "id": ""},
    ]
    first, second = (
        [p.id for p in load_problems(write(tmp_path / "problems.jsonl", given)).problems]
        for given in (records, records[::-1])
    )
    assert first[:2] == ["0", "u"]
    assert len(set(first)) == 4
    assert second == first[::-1]  # the place in the file does not matter


def test_a_second_record_with_the_same_id_is_set_aside_with_both_places(file):
    path = write(file, [*RECORDS, RECORDS[0] | {"problem": "other?"}])
    loaded = load_problems(path)
    assert [p.id for p in loaded.problems] == ["a", "b", "c"]
    (bad,) = loaded.bad
    assert bad["place"].endswith(" 4") and f"{path}, " in bad["place"]
    assert "the id 'a' was seen before" in bad["reason"] and bad["reason"].endswith(" 1)")


def test_the_fingerprint_changes_with_every_part_that_counts(tmp_path):
    changed = [RECORDS[0] | {name: "other"} for name in ("id", "problem", "answer")]
    variants = [RECORDS, *([record, *RECORDS[1:]] for record in changed), RECORDS[:2], RECORDS[::-1]]
    prints = [load_problems(write(tmp_path / f"{i}.jsonl", r)).fingerprint for i, r in enumerate(variants)]
    assert len(set(prints)) == len(variants)
    code = [record | {"examples": EXAMPLES} for record in RECORDS]
    assert load_problems(write(tmp_path / "x.jsonl", code), "code").fingerprint not in prints


# Bad files ----------------------------------------------------------------------------------------------


def refused(path, match):
    with pytest.raises(UserError) as caught:
        load_problems(str(path))
    assert re.search(match, str(caught.value))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file(file):
    refused(file, "there is no such data file")


def test_a_file_without_records(file):
    if file.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"problem": pyarrow.array([], pyarrow.string())}), file)
    else:
        file.write_text("[]" if file.suffix == ".json" else "\n\n")
    refused(file, "it holds no records")


@pytest.mark.parametrize(
    ("suffix", "match"),
    [("json", "line 1: not JSON"), ("jsonl", "it holds no records"), ("parquet", "not readable as parquet")],
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


def test_json_that_is_no_list(tmp_path):
    path = tmp_path / "problems.json"
    path.write_text('{"problem": "1 + 1?", "answer": "2"}')
    refused(path, "a list of records is expected, found dict")


def test_the_line_of_broken_json_is_named(tmp_path):
    path = tmp_path / "problems.json"
    path.write_text('[\n{"problem": "1 + 1?", "answer": "2"},\n{"problem": }\n]')
    refused(path, "line 3: not JSON")


@pytest.mark.parametrize("name", ["problems.csv", "./problems"])
def test_a_name_that_is_neither_a_known_file_nor_on_the_hub(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    refused(name, r"DATASET=.*neither a local file \(\.json, \.jsonl, \.parquet\) nor a data set")


# Bad records --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"problem": "1 + 1?", "answ', "not JSON"),
        ("5", "a JSON object is expected, found int"),
        ('"text"', "a JSON object is expected, found str"),
        ("null", "a JSON object is expected, found NoneType"),
        (
            '{"title": "1 + 1?", "answer": "2"}',
            "no problem text: one of problem, question, prompt is expected, found title, answer",
        ),
        ('{"problem": "", "answer": "2"}', "no problem text"),
        ('{"problem": ["1 + 1?"], "answer": "2"}', "no problem text"),
        ('{"problem": "1 + 1?"}', "no answer: one of answer, solution is expected"),
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
    assert bad["place"] == f"{path}, line 3"  # as an editor counts, blank lines too
    assert reason in bad["reason"]


@pytest.mark.parametrize("record", ["text", 5, None, [1]])
def test_a_record_of_a_json_list_that_is_no_object_is_set_aside(tmp_path, record):
    loaded = load_problems(write(tmp_path / "problems.json", [*RECORDS, record]))
    assert len(loaded.problems) == 3
    assert "a JSON object is expected" in loaded.bad[0]["reason"]
    assert loaded.bad[0]["place"].endswith(", record 4")


def test_what_is_set_aside_can_be_written_as_json(tmp_path):
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
    assert len(load_problems(str(path)).problems) == 1  # half is not yet most


EXAMPLES = [{"input": "1", "output": "2"}]


def load_code(tmp_path, **record):
    """The problem of a record, or the reason why it is set aside."""
    good = {"prompt": "b", "examples": EXAMPLES}
    loaded = load_problems(write(tmp_path / "problems.jsonl", [{"prompt": "a"} | record, good]), "code")
    return loaded.problems[0] if len(loaded.problems) == 2 else loaded.bad[0]["reason"]


def test_code_problems_need_no_answer(tmp_path):
    loaded = load_problems(write(tmp_path / "problems.jsonl", [{"prompt": "sort", "examples": EXAMPLES}]), "code")
    assert [(p.x, p.mode, p.answer) for p in loaded.problems] == [("sort", "code", "")]


def test_code_problems_need_tests(tmp_path):
    assert "no tests: one of examples, official_tests, test_cases, or test" in load_code(tmp_path)
    assert "no tests" in load_code(tmp_path, examples=[], official_tests=None)


def test_interactive_problems_are_set_aside(tmp_path):
    reason = load_code(tmp_path, examples=EXAMPLES, interaction_format="Ask at most 7 times.")
    assert "an interactive problem" in reason


def test_tests_of_all_fields_each_once(tmp_path):
    other = [{"input": "3", "output": "4"}]
    problem = load_code(tmp_path, examples=EXAMPLES, official_tests=other + EXAMPLES, test_cases=other)
    assert problem.tests == EXAMPLES + other


def test_tests_turned_round_as_datasets_may_give_them(tmp_path):
    problem = load_code(tmp_path, test_cases={"input": ["1", "3"], "output": ["2", "4"]})
    assert problem.tests == [*EXAMPLES, {"input": "3", "output": "4"}]


def test_functions_as_in_humaneval(tmp_path):
    problem = load_code(tmp_path, task_id="HumanEval/0", test="def check(f): assert f(1)", entry_point="f")
    assert (problem.id, problem.tests) == (
        "HumanEval/0",
        [{"test": "def check(f): assert f(1)", "entry_point": "f"}],
    )


def test_named_files(tmp_path):
    problem = load_code(tmp_path, examples=EXAMPLES, input_mode="file")
    assert (problem.input_file, problem.output_file) == ("input.txt", "output.txt")
    problem = load_code(tmp_path, examples=EXAMPLES, input_file="a.in", output_file="a.out")
    assert (problem.input_file, problem.output_file) == ("a.in", "a.out")
    problem = load_code(tmp_path, examples=EXAMPLES, input_mode="stdio")
    assert (problem.input_file, problem.output_file) == ("", "")
    for name in ("../a", "/a", ".a", "-a", "a b"):
        assert "a plain file name is expected" in load_code(tmp_path, examples=EXAMPLES, output_file=name)


@pytest.mark.parametrize("limit", [0, -1, "2 seconds", math.inf])
def test_limits_that_are_none(tmp_path, limit):
    assert "time_limit: a number above 0 is expected" in load_code(tmp_path, examples=EXAMPLES, time_limit=limit)


def test_a_checker(tmp_path):
    assert load_code(tmp_path, examples=EXAMPLES, generated_checker="print(1)").checker == "print(1)"
    assert load_code(tmp_path, examples=EXAMPLES, generated_checker=None).checker == ""


# The default data sets' own layouts ---------------------------------------------------------------------


@pytest.fixture(params=["jsonl", "parquet", "hub"])
def in_format(request, tmp_path, monkeypatch):
    """in_format(name): a file of tests/srt/data, as it is, as parquet, or as a folder for `datasets` to load."""

    def place(name):
        records = [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text("utf-8").splitlines()]
        if request.param == "jsonl":
            return str(DATA / f"{name}.jsonl")
        if request.param == "parquet":
            return write(tmp_path / f"{name}.parquet", records)
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
        (tmp_path / name / "data").mkdir(parents=True)
        write(tmp_path / name / "data" / "train-00000-of-00001.parquet", records)
        return str(tmp_path / name)

    return place


def test_openr1_math_220k(in_format):
    loaded = load_problems(in_format("openr1_math_220k"))
    assert [(p.answer, p.source) for p in loaded.problems] == [
        ("80", "cn_k12"),
        (r"x=2 \text{ or } x=3", "olympiads"),
        ("B", "amc_aime"),
        (r"\frac{3}{8}", "cn_contest"),
    ]
    assert [p.id[-1] for p in loaded.problems] == ["1", "2", "3", "7"]  # by uuid
    assert loaded.problems[0].x == "A train goes 120 km in 1.5 hours. What is its mean speed in km/h?"


def test_proofs_and_answers_that_were_not_found_are_set_aside_however_they_are_typed(in_format):
    bad = load_problems(in_format("openr1_math_220k")).bad
    types = [record["record"]["question_type"] for record in bad]
    assert types == ["proof", "math-word-problem", "math-word-problem"]
    assert all("a problem without an answer that could be verified" in record["reason"] for record in bad)
    assert "(answer: 'notfound')" in bad[2]["reason"]


def test_the_gold_answers_of_openr1_math_220k_can_be_verified():
    problems = load_problems(str(DATA / "openr1_math_220k.jsonl")).problems
    for problem, right, wrong in zip(problems, ("80", "2, 3", r"\text{(B)}", "0.375"), "ABCD", strict=True):
        assert verify_math(f"\\boxed{{{right}}}", problem.answer).correct
        assert not verify_math(f"\\boxed{{{wrong}}}", problem.answer).correct


def test_codeforces_cots(in_format):
    """It has a record for each solution: a problem with several is one problem, and that is no bad record."""
    loaded = load_problems(in_format("codeforces_cots"), "code")
    assert [p.id for p in loaded.problems] == ["1/A", "1/B"]
    assert (len(loaded.bad), loaded.repeated) == (1, 3)
    assert "an interactive problem" in loaded.bad[0]["reason"] and loaded.bad[0]["record"]["id"] == "2/C"
    double, reverse = loaded.problems
    assert double.x.startswith("You will be given a competitive programming problem.")
    assert double.tests == [{"input": "2\n", "output": "4\n"}, {"input": "50\n", "output": "100\n"}]
    assert double.limits == {"time_seconds": 1.0, "memory_mb": 256}
    assert reverse.limits == {"time_seconds": 2.5, "memory_mb": 64}


def test_a_description_without_a_prompt_is_told_with_its_formats_and_examples(tmp_path):
    record = json.loads((DATA / "codeforces_cots.jsonl").read_text("utf-8").splitlines()[1]) | {"prompt": None}
    record |= {"official_tests": [{"input": "q\n", "output": "q\n"}]}
    problem = load_problems(write(tmp_path / "problems.jsonl", [record]), "code").problems[0]
    places = [
        problem.x.index(part)
        for part in (
            "Print the given word",
            "Input format\nA word",
            "Output format\nThe",
            "Note\nLetters",
            "Example\nInput\nabc\n\nOutput\ncba",
        )
    ]
    assert places == sorted(places)
    assert problem.tests == [{"input": "abc\n", "output": "cba\n"}, {"input": "q\n", "output": "q\n"}]
    assert "q" not in problem.x.split("Example")[1]  # the official tests are not shown


def test_a_test_without_an_output_is_set_aside(tmp_path):
    records = [{"prompt": "a", "examples": [{"input": "1"}]}, {"prompt": "b", "examples": EXAMPLES}]
    loaded = load_problems(write(tmp_path / "problems.jsonl", records), "code")
    assert [p.x for p in loaded.problems] == ["b"]
    assert "a test needs an input and an output" in loaded.bad[0]["reason"]


def test_the_fingerprint_of_code_changes_with_tests_and_limits(tmp_path):
    first = {"prompt": "a", "examples": EXAMPLES, "time_limit": 1}
    changes = [{}, {"time_limit": 2}, {"examples": [{"input": "1", "output": "1"}]}, {"input_mode": "file"}]
    records = [first | change for change in [*changes, {"generated_checker": "print(1)"}]]
    prints = {
        load_problems(write(tmp_path / f"{i}.jsonl", [r]), "code").fingerprint for i, r in enumerate(records)
    }
    assert len(prints) == 5
