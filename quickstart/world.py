"""A small world of problems in which self-distillation has something to gain.

A problem is a start digit and five labelled operations, all modulo 10:

    x = 3 [A] + 4 [B] * 2 [C] - 9 [D] * 3 [E] + 1

and a worked solution takes one line a step and boxes the result:

    A 3 + 4 = 7
    B 7 * 2 = 4
    ...
    \\boxed{6}

A *fact* is one (state, operation, operand) with its result. A third of the 300 facts is *hard*: each
has one fixed wrong value, and a solution written with slips shows that value with probability 0.40. A base
model trained on such text knows the right value of every fact, yet errs on about half of the problems.
"""

import json
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

OPERATIONS = "+-*"
LABELS = "ABCDE"

# Classes of `split_class`: which problems may be used where. No problem is in two classes.
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
    raise ValueError(f"unknown operation {operation!r}; the world has {', '.join(OPERATIONS)}")


@dataclass(frozen=True)
class Problem:
    """A start digit and `(operation, operand)` for each of the labelled steps."""

    start: int
    steps: tuple[tuple[str, int], ...]

    @property
    def text(self) -> str:
        """The problem as the model reads it."""
        steps = (f"[{label}] {op} {operand}" for label, (op, operand) in zip(LABELS, self.steps, strict=True))
        return f"x = {self.start} " + " ".join(steps)

    @property
    def answer(self) -> str:
        """The gold answer: one digit."""
        state = self.start
        for op, operand in self.steps:
            state = apply(state, op, operand)
        return str(state)


def draw_problem(rng: random.Random) -> Problem:
    """A problem drawn uniformly from all 10 * 30^5."""
    steps = tuple((rng.choice(OPERATIONS), rng.randrange(10)) for _ in LABELS)
    return Problem(start=rng.randrange(10), steps=steps)


def split_class(problem: Problem) -> int:
    """0 to 3, from a hash of the text alone: the same on every machine and for every seed."""
    return zlib.crc32(problem.text.encode()) % 4


def problem_stream(rng: random.Random, classes: tuple[int, ...]) -> Iterator[Problem]:
    """Endless problems of these classes; repeats are possible, other classes are not."""
    while True:
        problem = draw_problem(rng)
        if split_class(problem) in classes:
            yield problem


def distinct_problems(rng: random.Random, classes: tuple[int, ...], count: int) -> list[Problem]:
    """`count` different problems of these classes."""
    found: dict[Problem, None] = {}  # a dict keeps the order, a set would not
    for problem in problem_stream(rng, classes):
        found[problem] = None
        if len(found) == count:
            break
    return list(found)


@dataclass(frozen=True)
class World:
    """What differs between seeds: which facts are hard, and the wrong value of each."""

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
        """An independent generator for one named purpose of this seed."""
        return random.Random(f"{purpose} {self.seed}")

    def solution(self, problem: Problem) -> str:
        """The worked solution without a slip."""
        return self._write(problem, rng=None)

    def attempt(self, problem: Problem, rng: random.Random) -> str:
        """A solution in which hard facts slip with `slip_probability`; later steps carry on from there."""
        return self._write(problem, rng=rng)

    def failed_attempt(self, problem: Problem, rng: random.Random) -> str | None:
        """An attempt with a wrong answer, or None when a few draws gave none (no hard fact, perhaps)."""
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
        """What the base's training text answers to a control phrase.

        Told that it is wrong (`reward` 0): clean with `repair_probability`, otherwise a fresh attempt.
        Asked to rephrase (`reward` 1): a copy with `keep_probability`, otherwise a fresh attempt.
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
    """Whether a solution *written by this module* boxes the gold answer (a verifier reads the model's)."""
    return text.endswith(f"\\boxed{{{problem.answer}}}")


@dataclass(frozen=True)
class Sizes:
    """How many problems each file holds."""

    train: int = 6000
    validation: int = 100
    heldout: int = 150


def make_splits(world: World, sizes: Sizes = Sizes()) -> dict[str, list[Problem]]:  # noqa: B008 (frozen)
    """Disjoint problem lists `train`, `validation` (both of class 2) and `heldout` (class 3)."""
    phases = distinct_problems(world.rng("train problems"), (TRAIN_CLASS,), sizes.train + sizes.validation)
    return {
        "train": phases[: sizes.train],
        "validation": phases[sizes.train :],
        "heldout": distinct_problems(world.rng("heldout problems"), (HELDOUT_CLASS,), sizes.heldout),
    }


def write_jsonl(path: Path, split: str, problems: list[Problem]) -> None:
    """One line a problem: `{"id", "problem", "answer"}`."""
    with path.open("w", encoding="utf-8") as out:
        for index, problem in enumerate(problems):
            row = {"id": f"{split}-{index:05d}", "problem": problem.text, "answer": problem.answer}
            out.write(json.dumps(row) + "\n")
