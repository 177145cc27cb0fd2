"""From record to problem: accepted fields of math and code problems, ids and fingerprints."""

import math

import pytest

from srt.contract.records import Problem
from srt.problems import ProblemSet, load_problems
from srt.problems.parsing import parse_problem
from tests.srt.helpers.problem_files import EXAMPLES, RECORDS, write


@pytest.fixture(params=["json", "jsonl", "parquet"])
def file(request, tmp_path):
    return tmp_path / f"problems.{request.param}"


def load_one(tmp_path, **record) -> ProblemSet:
    # Two good records beside it, so that a bad one is set aside instead of ending the run.
    return load_problems(write(tmp_path / "problems.jsonl", [record, *RECORDS[1:]]))


# Fields -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("question", ["problem", "question", "prompt"])
@pytest.mark.parametrize("answer", ["answer", "solution"])
def test_accepted_fields(file, question, answer):
    loaded = load_problems(write(file, [{question: " 1 + 1? ", answer: " 2 "}]))
    assert [(p.x, p.answer) for p in loaded.problems] == [("1 + 1?", "2")]


def test_the_first_non_empty_field_is_used(tmp_path):
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
def test_answers_are_extracted_and_numbers_are_accepted(tmp_path, given, answer):
    assert load_one(tmp_path, problem="x?", answer=given).problems[0].answer == answer


def test_numbers_in_parquet(tmp_path):
    path = write(tmp_path / "problems.parquet", [{"problem": "x?", "answer": 5}, {"problem": "y?", "answer": 12}])
    assert [p.answer for p in load_problems(path).problems] == ["5", "12"]


# Ids and fingerprints -----------------------------------------------------------------------------------


def test_ids_come_from_the_record_or_from_the_text(tmp_path):
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
    assert second == first[::-1]  # whatever the order in the file


def test_a_second_record_with_the_same_id_is_set_aside_with_both_places(file):
    path = write(file, [*RECORDS, RECORDS[0] | {"problem": "other?"}])
    loaded = load_problems(path)
    assert [p.id for p in loaded.problems] == ["a", "b", "c"]
    (bad,) = loaded.bad
    assert bad["place"].endswith(" 4") and f"{path}, " in bad["place"]
    assert "the id 'a' was seen before" in bad["reason"] and bad["reason"].endswith(" 1)")


def test_the_fingerprint_depends_on_id_text_answer_and_mode(tmp_path):
    changed = [RECORDS[0] | {name: "other"} for name in ("id", "problem", "answer")]
    variants = [RECORDS, *([record, *RECORDS[1:]] for record in changed), RECORDS[:2], RECORDS[::-1]]
    prints = [load_problems(write(tmp_path / f"{i}.jsonl", r)).fingerprint for i, r in enumerate(variants)]
    assert len(set(prints)) == len(variants)
    code = [record | {"examples": EXAMPLES} for record in RECORDS]
    assert load_problems(write(tmp_path / "x.jsonl", code), "code").fingerprint not in prints


def test_the_fingerprint_of_code_depends_on_tests_and_limits(tmp_path):
    first = {"prompt": "a", "examples": EXAMPLES, "time_limit": 1}
    changes = [{}, {"time_limit": 2}, {"examples": [{"input": "1", "output": "1"}]}, {"input_mode": "file"}]
    records = [first | change for change in [*changes, {"generated_checker": "print(1)"}]]
    prints = {
        load_problems(write(tmp_path / f"{i}.jsonl", [r]), "code").fingerprint for i, r in enumerate(records)
    }
    assert len(prints) == 5


# Code ---------------------------------------------------------------------------------------------------


def load_code(tmp_path, **record) -> Problem | str:
    """The problem in a record, or the reason why the record is set aside."""
    good = {"prompt": "b", "examples": EXAMPLES}
    loaded = load_problems(write(tmp_path / "problems.jsonl", [{"prompt": "a"} | record, good]), "code")
    return loaded.problems[0] if len(loaded.problems) == 2 else loaded.bad[0]["reason"]


def test_code_problems_need_no_answer(tmp_path):
    loaded = load_problems(write(tmp_path / "problems.jsonl", [{"prompt": "sort", "examples": EXAMPLES}]), "code")
    assert [(p.x, p.mode, p.answer) for p in loaded.problems] == [("sort", "code", "")]


def test_code_problems_need_tests(tmp_path):
    assert "no tests: expected one of examples, official_tests, test_cases, or test" in load_code(tmp_path)
    assert "no tests" in load_code(tmp_path, examples=[], official_tests=None)


def test_a_test_without_an_output_is_set_aside(tmp_path):
    records = [{"prompt": "a", "examples": [{"input": "1"}]}, {"prompt": "b", "examples": EXAMPLES}]
    loaded = load_problems(write(tmp_path / "problems.jsonl", records), "code")
    assert [p.x for p in loaded.problems] == ["b"]
    assert "a test needs an input and an output" in loaded.bad[0]["reason"]


def test_interactive_problems_are_set_aside(tmp_path):
    reason = load_code(tmp_path, examples=EXAMPLES, interaction_format="Ask at most 7 times.")
    assert "an interactive problem" in reason


def test_tests_of_all_fields_are_merged_without_duplicates(tmp_path):
    other = [{"input": "3", "output": "4"}]
    problem = load_code(tmp_path, examples=EXAMPLES, official_tests=other + EXAMPLES, test_cases=other)
    assert problem.tests == EXAMPLES + other


def test_tests_may_be_given_by_column(tmp_path):
    problem = load_code(tmp_path, test_cases={"input": ["1", "3"], "output": ["2", "4"]})
    assert problem.tests == [*EXAMPLES, {"input": "3", "output": "4"}]


def test_tests_that_call_a_function_as_in_humaneval(tmp_path):
    test = "def check(f): assert f(1)"
    problem = load_code(tmp_path, task_id="HumanEval/0", test=test, entry_point="f")
    assert (problem.id, problem.tests) == ("HumanEval/0", [{"test": test, "entry_point": "f"}])


def test_named_files(tmp_path):
    problem = load_code(tmp_path, examples=EXAMPLES, input_mode="file")
    assert (problem.input_file, problem.output_file) == ("input.txt", "output.txt")
    problem = load_code(tmp_path, examples=EXAMPLES, input_file="a.in", output_file="a.out")
    assert (problem.input_file, problem.output_file) == ("a.in", "a.out")
    problem = load_code(tmp_path, examples=EXAMPLES, input_mode="stdio")
    assert (problem.input_file, problem.output_file) == ("", "")
    for name in ("../a", "/a", ".a", "-a", "a b"):
        assert "expected a plain file name" in load_code(tmp_path, examples=EXAMPLES, output_file=name)


@pytest.mark.parametrize("limit", [0, -1, "2 seconds", math.inf])
def test_invalid_limits(tmp_path, limit):
    assert "time_limit: expected a number above 0" in load_code(tmp_path, examples=EXAMPLES, time_limit=limit)


def test_a_checker(tmp_path):
    assert load_code(tmp_path, examples=EXAMPLES, generated_checker="print(1)").checker == "print(1)"
    assert load_code(tmp_path, examples=EXAMPLES, generated_checker=None).checker == ""


# Odd values ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, ""])
def test_an_id_or_source_that_is_no_value_is_a_missing_one(value):
    record = {"problem": "x = 1", "answer": "1"}
    named = parse_problem(record | {"id": value, "source": value}, "math")
    assert named == parse_problem(record, "math")
    assert parse_problem(record | {"id": 0}, "math").id == "0"


@pytest.mark.parametrize("field", ["id", "problem", "answer", "source"])
def test_half_a_character_makes_a_record_bad(field):
    record = {"id": "a", "problem": "x = 1", "answer": "1", "source": "s"}
    name = "x" if field == "problem" else field
    with pytest.raises(ValueError, match=rf"not valid Unicode: a lone surrogate \(U\+D83D\) in its {name}"):
        parse_problem(record | {field: "1\ud83d"}, "math")
    assert parse_problem(record | {"problem": "x = 1 \U0001f600"}, "math")


def test_half_a_character_in_a_test_makes_a_record_bad():
    record = {"prompt": "Print it.", "examples": [{"input": "1", "output": "\udc00"}]}
    with pytest.raises(ValueError, match=r"lone surrogate \(U\+DC00\) in its tests"):
        parse_problem(record, "code")
