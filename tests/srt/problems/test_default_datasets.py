"""The default datasets in their own layout: OpenR1-Math-220k and codeforces-cots."""

import json
from pathlib import Path

import pytest

from srt.contract.paths import evaluation_or_default
from srt.problems import load_problems
from srt.verifiers.math.verify import verify_math
from tests.srt.helpers.hub import serve
from tests.srt.helpers.problem_files import write

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(params=["jsonl", "parquet", "hub"])
def in_format(request, tmp_path, monkeypatch):
    """in_format(name): a file of tests/srt/data as it is, as parquet, or as a folder that `datasets` loads."""

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
    assert [p.id[-1] for p in loaded.problems] == ["1", "2", "3", "7"]  # the uuid
    assert loaded.problems[0].x == "A train goes 120 km in 1.5 hours. What is its mean speed in km/h?"


def test_proofs_and_missing_answers_are_set_aside_whatever_their_type(in_format):
    bad = load_problems(in_format("openr1_math_220k")).bad
    types = [record["record"]["question_type"] for record in bad]
    assert types == ["proof", "math-word-problem", "math-word-problem"]
    assert bad[0]["reason"].startswith("a proof: no answer that could be verified")
    assert [record["reason"] for record in bad[1:]] == [
        "a placeholder in place of an answer: 'proof'",
        "a placeholder in place of an answer: 'notfound'",
    ]


def test_the_gold_answers_of_openr1_math_220k_can_be_verified():
    problems = load_problems(str(DATA / "openr1_math_220k.jsonl")).problems
    for problem, right, wrong in zip(problems, ("80", "2, 3", r"\text{(B)}", "0.375"), "ABCD", strict=True):
        assert verify_math(f"\\boxed{{{right}}}", problem.answer).correct
        assert not verify_math(f"\\boxed{{{wrong}}}", problem.answer).correct


def test_codeforces_cots(in_format):
    """It has one record per solution; a problem with several solutions is one problem, not a bad record."""
    loaded = load_problems(in_format("codeforces_cots"), "code")
    assert [p.id for p in loaded.problems] == ["1/A", "1/B"]
    assert (len(loaded.bad), loaded.repeated) == (1, 3)
    assert "an interactive problem" in loaded.bad[0]["reason"] and loaded.bad[0]["record"]["id"] == "2/C"
    double, reverse = loaded.problems
    assert double.x.startswith("You will be given a competitive programming problem.")
    assert double.tests == [{"input": "2\n", "output": "4\n"}, {"input": "50\n", "output": "100\n"}]
    assert double.limits == {"time_seconds": 1.0, "memory_mb": 256}
    assert reverse.limits == {"time_seconds": 2.5, "memory_mb": 64}


def test_a_description_without_a_prompt_includes_its_formats_and_examples(tmp_path):
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


# Evaluation and validation ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("knobs", "loaded"),
    [
        (("math", None, None), ("HuggingFaceH4/aime_2024", "train")),
        (("code", None, None), ("openai/openai_humaneval", "test")),
        (("code", None, "other"), ("openai/openai_humaneval", "other")),
        (("code", "mine.jsonl", None), ("mine.jsonl", "train")),
        (("math", "some/set", "test"), ("some/set", "test")),
    ],
)
def test_what_is_evaluated_on_follows_from_the_mode_unless_it_is_set(knobs, loaded):
    assert evaluation_or_default(*knobs) == loaded


@pytest.mark.parametrize("commit", [None, "0123456789abcdef0123456789abcdef01234567"])
def test_the_revision_of_a_hub_data_set_is_its_commit(commit, monkeypatch, tmp_path):
    """Data that does not come from the hub has a short hash in that place."""
    serve(monkeypatch, tmp_path, commit=commit)
    assert load_problems("HuggingFaceH4/aime_2024").revision == commit


@pytest.mark.parametrize("mode", ["math", "code"])
def test_every_record_of_the_default_evaluation_sets_is_a_problem(mode, monkeypatch, tmp_path):
    serve(monkeypatch, tmp_path)
    dataset, split = evaluation_or_default(mode, None, None)
    loaded = load_problems(dataset, mode, None, split)
    assert loaded.bad == []
    if mode == "math":
        assert [(p.id, p.answer) for p in loaded.problems] == [("60", "204")]
    else:
        assert [p.id for p in loaded.problems] == ["HumanEval/0", "HumanEval/1", "HumanEval/2"]
        assert loaded.problems[0].tests[0]["entry_point"] == "has_close_elements"
