"""A toy world of problems that leave room for self-distillation to improve a small model.

A problem is a start digit and five labeled operations, all modulo 10:

    x = 3 [A] + 4 [B] * 2 [C] - 9 [D] * 3 [E] + 1

and a worked solution has one line per step and boxes the result:

    A 3 + 4 = 7
    B 7 * 2 = 4
    ...
    \\boxed{6}

A *fact* is one (state, operation, operand) with its result. A third of the 300 facts are *hard*: each has one
fixed wrong value, which replaces the result with probability 0.40 in a solution written with slips. A base model
trained on such text knows the correct value of every fact, but still gets about half of the problems wrong.
"""

import json
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

OPERATIONS = "+-*"
LABELS = "ABCDE"

# The classes of `split_class`, which keep the problems of different uses disjoint.
BASE_CLASSES = (0, 1)
TRAIN_CLASS = 2
HELDOUT_CLASS = 3

# (state, operation, operand)
Fact = tuple[int, str, int]


def apply(state: int, operation: str, operand: int) -> int:
    """The true result of one step, modulo 10."""
    if operation == "+":
        return (state + operand) % 10
    if operation == "-":
        return (state - operand) % 10
    if operation == "*":
        return (state * operand) % 10
    raise ValueError(f"unknown operation {operation!r}; expected one of {', '.join(OPERATIONS)}")


@dataclass(frozen=True)
class Problem:
    """A start digit, and `(operation, operand)` for each of the labeled steps."""

    start: int
    steps: tuple[tuple[str, int], ...]

    @property
    def text(self) -> str:
        """The problem as the model sees it."""
        steps = (f"[{label}] {op} {operand}" for label, (op, operand) in zip(LABELS, self.steps, strict=True))
        return f"x = {self.start} " + " ".join(steps)

    @property
    def answer(self) -> str:
        """The ground truth: one digit."""
        state = self.start
        for op, operand in self.steps:
            state = apply(state, op, operand)
        return str(state)


def draw_problem(rng: random.Random) -> Problem:
    """A problem drawn uniformly from all 10 * 30^5."""
    steps = tuple((rng.choice(OPERATIONS), rng.randrange(10)) for _ in LABELS)
    return Problem(start=rng.randrange(10), steps=steps)


def split_class(problem: Problem) -> int:
    """0 to 3, from a hash of the text only, so it is the same on every machine and for every seed."""
    return zlib.crc32(problem.text.encode()) % 4


def problem_stream(rng: random.Random, classes: tuple[int, ...]) -> Iterator[Problem]:
    """An endless stream of problems of these classes, possibly with repeats."""
    while True:
        problem = draw_problem(rng)
        if split_class(problem) in classes:
            yield problem


def distinct_problems(rng: random.Random, classes: tuple[int, ...], count: int) -> list[Problem]:
    """`count` different problems of these classes."""
    problems: dict[Problem, None] = {}  # unlike a set, a dict preserves the order
    for problem in problem_stream(rng, classes):
        problems[problem] = None
        if len(problems) == count:
            break
    return list(problems)


@dataclass(frozen=True)
class World:
    """What depends on the seed: which facts are hard, and the wrong value of each."""

    seed: int
    hard_share: float = 1 / 3
    slip_probability: float = 0.40
    wrong_value: dict[Fact, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        rng = random.Random(f"hard facts {self.seed}")
        facts = [(state, op, operand) for state in range(10) for op in OPERATIONS for operand in range(10)]
        hard = rng.sample(facts, round(len(facts) * self.hard_share))
        wrong = {fact: rng.choice([v for v in range(10) if v != apply(*fact)]) for fact in hard}
        object.__setattr__(self, "wrong_value", wrong)

    def rng(self, purpose: str) -> random.Random:
        """An independent generator for this seed and a named purpose."""
        return random.Random(f"{purpose} {self.seed}")

    def solution(self, problem: Problem) -> str:
        """The worked solution without slips."""
        return self._write(problem, rng=None)

    def attempt(self, problem: Problem, rng: random.Random) -> str:
        """A solution in which hard facts slip with `slip_probability`; later steps continue from the slip."""
        return self._write(problem, rng=rng)

    def failed_attempt(self, problem: Problem, rng: random.Random) -> str | None:
        """An attempt with a wrong answer, or None if a few draws gave none (there may be no hard fact)."""
        for _ in range(8):
            text = self.attempt(problem, rng)
            if not is_correct(text, problem):
                return text
        return None

    def revision(
        self,
        problem: Problem,
        attempt: str,
        reward: int,
        rng: random.Random,
        repair_probability: float,
        keep_probability: float,
    ) -> str:
        """The response to a control phrase in the training text of the base model.

        For `reward` 0: a correct solution with `repair_probability`, otherwise a fresh attempt.
        For `reward` 1: a copy of the attempt with `keep_probability`, otherwise a fresh attempt.
        """
        if reward == 1:
            return attempt if rng.random() < keep_probability else self.attempt(problem, rng)
        return self.solution(problem) if rng.random() < repair_probability else self.attempt(problem, rng)

    def _write(self, problem: Problem, rng: random.Random | None) -> str:
        lines, state = [], problem.start
        for label, (op, operand) in zip(LABELS, problem.steps, strict=True):
            result = apply(state, op, operand)
            wrong = self.wrong_value.get((state, op, operand))
            if rng is not None and wrong is not None and rng.random() < self.slip_probability:
                result = wrong
            lines.append(f"{label} {state} {op} {operand} = {result}")
            state = result
        return "\n".join([*lines, f"\\boxed{{{state}}}"])


def is_correct(text: str, problem: Problem) -> bool:
    """Whether a solution *written by this module* boxes the ground truth (for model outputs, use a verifier)."""
    return text.endswith(f"\\boxed{{{problem.answer}}}")


@dataclass(frozen=True)
class Sizes:
    """The number of problems in each file."""

    train: int = 6000
    validation: int = 100
    heldout: int = 150


def make_splits(world: World, sizes: Sizes = Sizes()) -> dict[str, list[Problem]]:  # noqa: B008 (frozen)
    """Disjoint lists of problems: `train` and `validation` (class 2), `heldout` (class 3)."""
    problems = distinct_problems(world.rng("train problems"), (TRAIN_CLASS,), sizes.train + sizes.validation)
    return {
        "train": problems[: sizes.train],
        "validation": problems[sizes.train :],
        "heldout": distinct_problems(world.rng("heldout problems"), (HELDOUT_CLASS,), sizes.heldout),
    }


def write_jsonl(path: Path, split: str, problems: list[Problem]) -> None:
    """One line per problem: `{"id", "problem", "answer"}`."""
    with path.open("w", encoding="utf-8") as out:
        for index, problem in enumerate(problems):
            record = {"id": f"{split}-{index:05d}", "problem": problem.text, "answer": problem.answer}
            out.write(json.dumps(record) + "\n")
