"""Tasks of reasoning-gym with their options, by label: the word problems, and candidates for a second domain."""

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from srt.common.errors import UserError

DRAWS = 50  # for each problem that is needed: small tasks repeat themselves


@dataclass(frozen=True)
class Task:
    """A generator of reasoning-gym and its options. `sound`: whether (question, answer) can be trusted."""

    generator: str
    options: dict[str, int] = field(default_factory=dict)
    sound: Callable[[str, str], bool] = lambda question, answer: True


def is_exact(question: str, answer: str) -> bool:
    """Of basic_arithmetic, which at times rounds a division by an expression in parentheses down."""
    expression = question.removeprefix("Calculate ").removesuffix(".")
    try:
        value = eval(re.sub(r"\d+", r"Fraction(\g<0>)", expression), {"Fraction": Fraction})
    except ZeroDivisionError:
        return False
    return value == Fraction(answer)


# Qwen2.5-Coder-1.5B-Instruct is right on 45 to 60% of each.
WORD_PROBLEMS = {
    "gsm_symbolic": Task("gsm_symbolic"),
    "lcm": Task("lcm"),
    "gcd": Task("gcd"),
    "simple_equations": Task("simple_equations"),
    "chain_sum": Task("chain_sum", {"min_terms": 4, "max_terms": 6, "min_digits": 2, "max_digits": 3}),
    "products": Task("products", {"min_digits": 2, "max_digits": 3}),
}

# What screening.py chooses from: every answer is one number, which the verifier tells from others, no answer is
# right on more than a fifth of the problems, and each task has thousands of different ones.
CANDIDATES = {
    "basic_arithmetic": Task(
        "basic_arithmetic", {"min_terms": 4, "max_terms": 7, "min_digits": 1, "max_digits": 2}, is_exact
    ),
    "basic_arithmetic_long": Task(
        "basic_arithmetic", {"min_terms": 6, "max_terms": 9, "min_digits": 1, "max_digits": 3}, is_exact
    ),
    "decimal_chain_sum": Task("decimal_chain_sum"),
    "chain_sum_long": Task("chain_sum", {"min_terms": 8, "max_terms": 12, "min_digits": 2, "max_digits": 3}),
    "products_3": Task("products", {"min_terms": 3, "max_terms": 3, "min_digits": 1, "max_digits": 2}),
    "lcm_3": Task("lcm", {"min_numbers": 3, "max_numbers": 3, "max_value": 40}),
    "simple_equations_long": Task("simple_equations", {"min_terms": 5, "max_terms": 7, "max_value": 100}),
    "complex_arithmetic": Task("complex_arithmetic"),
    "count_primes_100": Task("count_primes", {"max_n": 100}),
    "count_bits_16": Task("count_bits", {"min_n": 2**8, "max_n": 2**16 - 1}),
    "leg_counting_small": Task("leg_counting", {"min_animals": 2, "max_animals": 4, "max_instances": 6}),
    "aiw": Task("aiw"),
    "dice": Task("dice"),
}
# Tasks that were considered, and why they are no candidates.
LEFT_OUT = {
    "number_format": "rounded answers",
    "decimal_arithmetic": "rounded answers",
    "fraction_simplification": "the fraction to simplify is equal to the answer",
    "simple_geometry": "most of its convex polygons do not exist",
    "simple_geometry_large": "most of its convex polygons do not exist",
    "number_sequence": "ambiguous",
    "letter_counting": "counts capital letters without saying so; 1 is right on 39%",
    "gcd_3": "1 is right on 58%",
    "count_bits_small": "only 255 problems",
    "count_primes_small": "only 1 830 problems",
}
# The second domain, as screened on 2026-11-27 (docs/results.md).
NUMBER_PUZZLES = ("basic_arithmetic", "decimal_chain_sum", "chain_sum_long")


def required(package: str) -> Any:
    """A package of experiments/requirements.txt. Raises UserError where it, or what it imports, is missing."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{sys.prefix} lacks {error.name}, which makes the problems: "
            "pip install --no-deps -r experiments/requirements.txt"
        ) from error


def generated(label: str, task: Task, seed: int, count: int, seen: set[str]) -> Iterator[dict[str, str]]:
    """`count` sound problems whose text is not in `seen`, which they enter.

    Problem i of a seed depends on seed + i alone, so seeds less than DRAWS * count apart share problems. Raises
    UserError for a task that has too few different problems, and without the generators.
    """
    reasoning_gym = required("reasoning_gym")
    missing = count
    draws = reasoning_gym.create_dataset(task.generator, size=DRAWS * count, seed=seed, **task.options)
    for index in range(DRAWS * count):
        if not missing:
            return
        try:
            entry = draws[index]
        except ZeroDivisionError:  # basic_arithmetic does not look out for it
            continue
        question, answer = entry["question"], str(entry["answer"])
        text = normalized(question)
        if text not in seen and task.sound(question, answer):
            seen.add(text)
            missing -= 1
            yield {"problem": question, "answer": answer, "source": label}
    if missing:
        raise UserError(
            f"{label}: {missing} of {count} problems are missing; its generator repeats itself too often "
            "(widen its options in experiments/one_gpu/tasks.py, or leave it out)"
        )


def normalized(text: str) -> str:
    """Equal for problems that differ only in case, punctuation and spaces."""
    return re.sub(r"\W+", " ", text).strip().lower()
