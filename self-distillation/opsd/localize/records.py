"""A scored response: one line of scores.jsonl, and the input of every analysis."""

from dataclasses import asdict, dataclass, field
from typing import Any

from opsd.localize.details import Alternative

DIGITS = 5  # after the point, of nats and probabilities


@dataclass(frozen=True)
class VariantScores:
    """The same y under another cue, token by token: KL of the student from this teacher, the token's log-prob
    under it, and `moved`, the KL of the training's teacher from it."""

    kl: list[float]
    logprob: list[float]
    moved: list[float]


@dataclass(frozen=True)
class ScoredResponse:
    """Lists have one item for each token of y; KL, entropies and log-probs in nats; ranks count from 1.

    `alternatives`: (token id, probability under the student, under the teacher), likeliest first. `variants`: by
    name, of the cues that training would not have used for this reward.
    """

    problem: int
    response: int
    id: str
    x: str
    answer: str
    r: int
    finish_reason: str
    p_r: str
    ids: list[int]
    tokens: list[str]
    kl: list[float]
    student_entropy: list[float]
    teacher_entropy: list[float]
    student_logprob: list[float]
    teacher_logprob: list[float]
    student_rank: list[int]
    teacher_rank: list[int]
    alternatives: list[list[Alternative]]
    variants: dict[str, VariantScores] = field(default_factory=dict)

    @property
    def key(self) -> tuple[int, int]:
        return self.problem, self.response

    @property
    def text(self) -> str:
        return "".join(self.tokens)

    def as_line(self) -> dict[str, Any]:
        return _rounded(asdict(self))

    @classmethod
    def from_line(cls, line: dict[str, Any]) -> "ScoredResponse":
        variants = {name: VariantScores(**scores) for name, scores in line["variants"].items()}
        alternatives = [[(i, p, q) for i, p, q in token] for token in line["alternatives"]]
        return cls(**line | {"variants": variants, "alternatives": alternatives})


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value
