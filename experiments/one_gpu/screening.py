"""Which tasks are hard enough, and not too hard, for a model: the choice of the experiment's second domain.

    python -m experiments.one_gpu.screening --write CANDIDATES.jsonl
    DATASET=CANDIDATES.jsonl OUTPUT_DIR=DIR GREEDY=0 REVISE=none bash scripts/evaluate.sh
    python -m experiments.one_gpu.screening --choose DIR

The file holds 40 problems of each candidate (tasks.py), by a seed of their own: no file of problems.py has one of
them. Chosen are the tasks on which the model is right in 20 to 60% of its responses, less than 5% of them cut off.
"""

import json
from pathlib import Path
from typing import Any

from experiments.one_gpu.problems import SCREENING
from experiments.one_gpu.tasks import CANDIDATES, LEFT_OUT, generated
from srt.common.entry_point import run_entry_point
from srt.common.errors import UserError
from srt.common.files import atomic_write, read_json
from srt.common.name_values import show_help
from srt.contract.metrics import AVG_AT_K, MEAN_RESPONSE_TOKENS, PASS_AT, TRUNCATED, at
from srt.problems.parsing import parse_problem
from srt.verifiers.math.verify import verify_math
from srt.verifiers.types import VerifierError

Json = dict[str, Any]
RIGHT = (0.2, 0.6)  # share of the responses, both ends included
MAX_TRUNCATED = 0.05
CHOSEN = "chosen"


def write_candidates(path: Path) -> dict[str, str]:
    """Write problems of every candidate that the verifier can grade; returns the others, each with the reason.

    Raises UserError without the generators.
    """
    lines, refused = [], {}
    for label, task in CANDIDATES.items():
        problems = list(generated(label, task, *SCREENING, set()))
        if reason := why_not_gradable(problems):
            refused[label] = reason
        else:
            lines += [{"id": f"{label}-{index}"} | problem for index, problem in enumerate(problems)]
    with atomic_write(path, "the path after --write") as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return refused


def why_not_gradable(problems: list[dict[str, str]]) -> str | None:
    """The first answer that the verifier does not take in a box, or does not tell from another one."""
    for problem in problems:
        answer = problem["answer"]
        try:
            gold = parse_problem(problem, "math").answer
            if not verify_math(f"\\boxed{{{answer}}}", gold).correct:
                return f"the verifier refuses its own answer {answer}"
            other = _with_other_digit(answer)
            if other is None or verify_math(f"\\boxed{{{other}}}", gold).correct:
                return f"the verifier cannot tell {answer} from {other or 'another number'}"
        except (ValueError, VerifierError) as error:
            return f"its answer {answer} cannot be graded ({error})"
    return None


def _with_other_digit(answer: str) -> str | None:
    """The answer with another last digit; None for one without digits."""
    places = [place for place, character in enumerate(answer) if character.isdecimal()]
    if not places:
        return None
    digit = (int(answer[places[-1]]) + 1) % 10
    return f"{answer[: places[-1]]}{digit}{answer[places[-1] + 1 :]}"


def read_evaluation(folder: Path) -> Json:
    """The number of responses k, and the metrics of each task by its label.

    Raises UserError for anything but one model's evaluation of several tasks.
    """
    path = folder / "evaluation.json"
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected the OUTPUT_DIR of a finished scripts/evaluate.sh")
    found = read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("by_source"), dict):
        raise UserError(f"{path}: expected the evaluation of one model, with its metrics by_source")
    if not found["by_source"]:
        raise UserError(f"{path}: its problems have no different `source`; evaluate the file of --write")
    k = found.get("k")
    for label, entry in found["by_source"].items():
        for name in (AVG_AT_K, at(PASS_AT, k), MEAN_RESPONSE_TOKENS, TRUNCATED):
            if name not in entry.get("metrics", {}):
                raise UserError(f"{path}: {label} has no {name}; expected what this version's evaluate.sh writes")
    return {"k": k, "tasks": found["by_source"]}


def verdict(label: str, metrics: Json) -> str:
    """CHOSEN, or why the task is not."""
    right, truncated = metrics[AVG_AT_K]["value"], metrics[TRUNCATED]["value"]
    if label not in CANDIDATES:
        return f"no candidate: {LEFT_OUT.get(label, 'not in tasks.py')}"
    if right < RIGHT[0]:
        return "too hard"
    if right > RIGHT[1]:
        return "too easy"
    return CHOSEN if truncated < MAX_TRUNCATED else "cut off too often"


def chosen_tasks(evaluation: Json) -> list[str]:
    """Labels, in the order of the evaluation."""
    return [label for label, entry in evaluation["tasks"].items() if verdict(label, entry["metrics"]) == CHOSEN]


def table(evaluation: Json) -> str:
    """A Markdown table, the easiest task first; percentages, avg@k with its interval over problems."""
    k = evaluation["k"]
    lines = [f"| task | problems | avg@{k} (95%) | pass@{k} | tokens | truncated | |", "|" + "---|" * 7]
    tasks = evaluation["tasks"].items()
    for label, entry in sorted(tasks, key=lambda task: -task[1]["metrics"][AVG_AT_K]["value"]):
        metrics = entry["metrics"]
        low, high = metrics[AVG_AT_K]["interval"] or (float("nan"), float("nan"))
        cells = [
            label,
            str(entry["problems"]),
            f"{100 * metrics[AVG_AT_K]['value']:.1f} ({100 * low:.1f}-{100 * high:.1f})",
            f"{100 * metrics[at(PASS_AT, k)]['value']:.1f}",
            f"{metrics[MEAN_RESPONSE_TOKENS]['value']:.0f}",
            f"{100 * metrics[TRUNCATED]['value']:.1f}",
            verdict(label, metrics),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    show_help(arguments, __doc__)
    match arguments:
        case ["--write", path]:
            refused = write_candidates(Path(path))
            for label, reason in refused.items():
                print(f"left out: {label}: {reason}")
            print(f"{path}: {SCREENING[1]} problems of each of {len(CANDIDATES) - len(refused)} tasks")
        case ["--choose", folder]:
            evaluation = read_evaluation(Path(folder))
            print(table(evaluation))
            print(f"chosen, for NUMBER_PUZZLES in tasks.py: {', '.join(chosen_tasks(evaluation)) or 'none'}")
        case _:
            raise UserError("expected --write CANDIDATES.jsonl or --choose DIR; --help shows how to run it")


if __name__ == "__main__":
    run_entry_point(main)
