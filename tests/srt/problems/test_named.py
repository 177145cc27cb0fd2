"""The named sets: where they are, and their records in the layout of the hub."""

import pickle
import re
import zlib
from base64 import b64encode

import pytest

from srt.common.errors import UserError
from srt.contract.records import Problem
from srt.problems import load_problems
from srt.problems.livecodebench import from_livecodebench
from srt.problems.named import NAMED_SETS, integer, named_sets
from srt.verifiers.code.grader import CodeGrader
from srt.verifiers.code.judge import JudgeConfig
from srt.verifiers.math.verify import verify_math
from tests.srt.helpers.named_sets import RECORDS, serve_named

MATH = ["aime24", "aime25", "hmmt25", "math500", "amc23", "olympiadbench", "gsm8k"]
CODE = ["humaneval", "livecodebench", "codeforces"]


@pytest.fixture
def asked(monkeypatch, tmp_path):
    return serve_named(monkeypatch, tmp_path)


def answers(loaded) -> dict[str, str]:
    return {problem.id: problem.answer for problem in loaded.problems}


def test_every_set_of_the_issue_has_a_pinned_revision_and_a_mode():
    assert list(NAMED_SETS) == MATH + CODE
    for name, named in NAMED_SETS.items():
        assert re.fullmatch(r"[0-9a-f]{40}", named.revision)
        assert named.mode == ("math" if name in MATH else "code")


@pytest.mark.parametrize("name", [name for name in NAMED_SETS if name != "humaneval"])
def test_a_set_is_loaded_from_its_place_at_its_revision(asked, name):
    named = NAMED_SETS[name]
    loaded = load_problems(name, named.mode)
    (request,) = asked
    if named.files:
        expected = [f"hf://datasets/{named.hub_id}@{named.revision}/{file}" for file in named.files]
        assert (request["path"], request["files"]) == ("json", expected)
    else:
        assert request["path"] == named.hub_id and request["revision"] == named.revision
        assert request["subset"] == named.subset
    assert request["split"] == named.split
    assert loaded.revision == named.revision
    assert {problem.source for problem in loaded.problems} == {name}
    assert all(problem.id.startswith(f"{name}/") or name == "gsm8k" for problem in loaded.problems)


def test_leading_zeros_degrees_and_decimal_points_are_no_part_of_an_integer(asked):
    assert answers(load_problems("aime24")) == {"aime24/60": "25", "aime24/61": "0"}
    assert answers(load_problems("aime25")) == {"aime25/0": "70", "aime25/1": "336"}
    assert answers(load_problems("amc23")) == {"amc23/0": "27", "amc23/1": "-1"}


@pytest.mark.parametrize(
    ("text", "value"),
    [("025", "25"), ("000", "0"), ("-0", "0"), ("-007", "-7"), ("1,024", "1024"), (" $12$ ", "12"), (204, "204")],
)
def test_integers(text, value):
    assert integer(text) == value


@pytest.mark.parametrize("text", ["", None, "1/2", "1.5", "x", "12 or 13"])
def test_what_is_no_integer_is_refused(text):
    with pytest.raises(ValueError, match="integer"):
        integer(text)


def test_problems_without_an_answer_are_set_aside_with_their_place(asked):
    (bad,) = load_problems("aime24").bad
    assert bad["place"] == "HuggingFaceH4/aime_2024, train row 3" and "no answer" in bad["reason"]


def test_a_text_that_occurs_again_is_not_another_problem(asked):
    loaded = load_problems("aime25")
    assert loaded.repeated == 1  # the same text and answer under another id
    (bad,) = loaded.bad
    assert bad["reason"] == "the text of 'aime25/1' with another answer"


def test_answers_in_latex_can_be_verified(asked):
    problems = load_problems("hmmt25,math500").problems
    responses = ["\\boxed{1/576}", "\\boxed{\\sqrt{12}}", "\\boxed{(3, \\pi/2)}"]
    for problem, response in zip(problems, responses, strict=True):
        assert verify_math(response, problem.answer).correct
        assert not verify_math("\\boxed{5}", problem.answer).correct


def test_olympiadbench(asked):
    loaded = load_problems("olympiadbench")
    several, formula = loaded.problems
    assert verify_math("\\boxed{-2, 2}", several.answer).correct
    assert not verify_math("\\boxed{2}", several.answer).correct
    assert formula.x == "Let $n$ be a positive integer.\n\nWhat is $k$?"
    assert verify_math("\\boxed{\\frac{1}{2(n+1)}}", formula.answer).correct
    assert [bad["reason"].split(":")[0] for bad in loaded.bad] == [
        "no answer",
        "its answer is accepted within 1e-1, and answers here are exact",
    ]


def test_gsm8k(asked):
    loaded = load_problems("gsm8k")
    assert [problem.answer for problem in loaded.problems] == ["1024", "-3"]
    assert "#### and a number" in loaded.bad[0]["reason"]


# Code ---------------------------------------------------------------------------------------------------


def test_livecodebench_has_tests_of_both_kinds_in_both_forms(asked):
    loaded = load_problems("livecodebench", "code")
    double, add, plain = loaded.problems
    assert [test["input"] for test in double.tests] == ["3\n", "4\n", "5\n"]
    assert loaded.examples_only == frozenset()
    assert add.tests[0]["entry_point"] == "Solution().addAll" and "class Solution" in add.x
    assert plain.tests == [{"input": "1\n", "output": "1\n"}]
    assert "no tests" in loaded.bad[0]["reason"]


SOLUTIONS = {
    "livecodebench/double": ("print(2 * int(input()))", "print(6)"),
    "livecodebench/sum": (
        "class Solution:\n    def addAll(self, numbers, start):\n        return sum(numbers, start)",
        "class Solution:\n    def addAll(self, numbers, start):\n        return 13",
    ),
    "codeforces/1/A": ("print(2 * int(input()))", "print(6)"),
}


@pytest.mark.bwrap
def test_programs_are_judged_by_the_hidden_tests_too(asked):
    """The wrong ones pass the examples."""
    problems: list[Problem] = [
        problem for name in ("livecodebench", "codeforces") for problem in load_problems(name, "code").problems
    ]
    items = [
        (f"```python\n{program}\n```", problem, "stop")
        for problem in problems
        for program in SOLUTIONS.get(problem.id, ())
    ]
    assert len(items) == 2 * len(SOLUTIONS)
    with CodeGrader(2, JudgeConfig("bwrap", 10, 512, 1.0)) as grader:
        verdicts = grader.grade_all(items)
    assert [verdict.correct for verdict in verdicts] == [True, False] * len(SOLUTIONS)


def test_codeforces_sets_interactive_problems_aside(asked):
    loaded = load_problems("codeforces", "code")
    assert [problem.id for problem in loaded.problems] == ["codeforces/1/A"]
    assert loaded.problems[0].limits == {"time_seconds": 1.0, "memory_mb": 256.0}
    assert "interactive" in loaded.bad[0]["reason"]


def test_hidden_tests_cannot_run_code():
    class Attack:
        def __reduce__(self):
            return (print, ("run",))

    record = dict(RECORDS["livecodebench"][0])
    record["private_test_cases"] = b64encode(zlib.compress(pickle.dumps(Attack()))).decode()
    with pytest.raises(
        ValueError, match="private_test_cases: neither JSON nor .*expected text, found builtins.print"
    ):
        from_livecodebench(record)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("private_test_cases", "%%%", "private_test_cases: neither JSON nor compressed JSON"),
        ("public_test_cases", '{"input": "1"}', "public_test_cases: expected a list of tests"),
        (
            "public_test_cases",
            '[{"input": "1", "output": "1", "testtype": "other"}]',
            "found \\['other', 'stdin'\\]",
        ),
    ],
)
def test_tests_that_cannot_be_read(field, value, message):
    with pytest.raises(ValueError, match=message):
        from_livecodebench(RECORDS["livecodebench"][0] | {field: value})


def test_a_function_without_a_name_is_refused():
    with pytest.raises(ValueError, match="no func_name"):
        from_livecodebench(RECORDS["livecodebench"][1] | {"metadata": "{}"})


# Names --------------------------------------------------------------------------------------------------


def test_several_sets_at_once(asked):
    loaded = load_problems("aime24, aime25,gsm8k")
    assert [problem.source for problem in loaded.problems] == ["aime24"] * 2 + ["aime25"] * 2 + ["gsm8k"] * 2
    revisions = [NAMED_SETS[name].revision for name in ("aime24", "aime25", "gsm8k")]
    assert loaded.revision == ",".join(revisions)


def test_ids_and_files_are_no_names():
    assert named_sets("openai/gsm8k", "math") is None and named_sets("data,with,commas.jsonl", "math") is None


def test_an_unknown_name_among_known_ones_is_refused():
    with pytest.raises(UserError, match="aime26 is not among the named sets .aime24, .*codeforces."):
        named_sets("aime24,aime26", "math")


@pytest.mark.parametrize(
    ("names", "mode", "name"), [("aime24,humaneval", "math", "humaneval"), ("gsm8k", "code", "gsm8k")]
)
def test_a_set_of_the_other_mode_is_refused(names, mode, name):
    with pytest.raises(UserError, match=f"{name} has .* problems; set MODE="):
        named_sets(names, mode)


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch):
    def offline(*args, **kwargs):
        raise ConnectionError("Couldn't reach the hub\nmore lines")

    monkeypatch.setattr("datasets.load_dataset", offline)
    with pytest.raises(UserError) as error:
        load_problems("aime24")
    assert "\n" not in str(error.value)
    assert "aime24: HuggingFaceH4/aime_2024 could not be loaded from the Hugging Face hub at" in str(error.value)
    assert "Couldn't reach the hub" in str(error.value) and "local file" in str(error.value)
