"""What the progress bar, the summary and run.json say about a collection."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from srt.contract.metrics import REVISIONS_TRUNCATED, by_reward
from srt.contract.records import Response, Revision

_LABELS = {
    "first_try_accuracy": "first try",
    "wrong_to_right": "wrong->right",
    "right_to_right": "right->right",
}


@dataclass
class CollectionStats:
    """Counts over all graded samples, those of earlier runs included.

    `kept`: tuples as they will be written. `cleaned`: changes by kind. `set_aside`: samples by reason.
    `revised[r]`: [revisions, right revisions, truncated revisions] of responses with reward r.
    """

    responses: int = 0
    right: int = 0
    truncated: int = 0
    kept: int = 0
    tokens: int = 0
    cleaned: Counter[str] = field(default_factory=Counter)
    set_aside: Counter[str] = field(default_factory=Counter)
    revised: dict[int, list[int]] = field(default_factory=lambda: {0: [0, 0, 0], 1: [0, 0, 0]})

    def add_response(self, response: Response) -> None:
        self.responses += 1
        self.right += response.r
        self.truncated += response.y_init_finish_reason == "length"
        self.tokens += response.y_init_tokens

    def add_revision(self, revision: Revision, r: int) -> None:
        self.revised[r][0] += 1
        self.revised[r][1] += revision.y_revised_correct
        self.revised[r][2] += revision.y_revised_finish_reason == "length"
        self.tokens += revision.y_revised_tokens

    def nothing_right(self) -> str:
        """What it means when none of many responses was right."""
        return (
            f"none of {self.responses} responses was right, so that nothing teaches what a right one is "
            f"({self.truncated / max(self.responses, 1):.0%} were cut off by MAX_TOKENS); look at y_init and "
            "ground_truth in attempts.jsonl, and check PROMPT_SUFFIX, MAX_TOKENS and the answers of the dataset"
        )

    @property
    def revisions(self) -> int:
        return self.revised[0][0] + self.revised[1][0]

    def summary(self) -> dict[str, int | float | dict[str, int] | None]:
        return {
            "responses": self.responses,
            "revisions": self.revisions,
            "right_revisions": self.revised[0][1] + self.revised[1][1],
            "kept": self.kept,
            "cleaned": dict(sorted(self.cleaned.items())),
            "set_aside": self.set_aside.total(),
            "set_aside_by_reason": dict(sorted(self.set_aside.items())),
            "tokens": self.tokens,
            **self._rates(),
        }

    def account(self, written: int, after_right: int, target: int) -> dict[str, str]:
        """From samples to the tuples that were written, in words: what was counted how. For the summary."""
        rates = self._rates()
        right = sum(self.revised[r][1] for r in (0, 1))
        shares = [
            f"{rate:.1%} after {name} ones"
            for name, key in (("wrong", "wrong_to_right"), ("right", "right_to_right"))
            if (rate := rates[key]) is not None
        ]
        duplicates = self.cleaned["duplicate"]
        left_out = {"duplicates": duplicates, "dropped by cleaning": right - self.kept - duplicates}
        first_try = rates["first_try_accuracy"] or 0
        lines = {
            "responses": f"{self.responses:,}, {self.right:,} right (first-try accuracy {first_try:.1%})",
            "revisions": f"{self.revisions:,}, {right:,} right ({', '.join(shares) or 'none sampled'})",
            "left out of these": _counted(left_out) or "none",
            "kept": f"{self.kept:,} tuples",
            "written": f"{written:,} of these (target: {target:,}), {written - after_right:,} after wrong "
            f"responses and {after_right:,} after right ones",
        }
        if truncated := rates["truncated_share"]:
            lines["cut off"] = f"{truncated:.1%} of the responses, which count as wrong"
        if self.set_aside:
            lines["set aside"] = f"{self.set_aside.total():,} without a verdict ({_counted(self.set_aside)})"
        return lines

    def percentages(self) -> Iterator[str]:
        """Accuracies for the progress bar, each once there are samples for it."""
        rates = self._rates()
        for name, label in _LABELS.items():
            if (rate := rates[name]) is not None:
                yield f"{label} {rate:.1%}"

    def _rates(self) -> dict[str, float | None]:
        def rate(part: int, whole: int) -> float | None:
            return round(part / whole, 4) if whole else None

        return {
            "first_try_accuracy": rate(self.right, self.responses),
            "truncated_share": rate(self.truncated, self.responses),
            "wrong_to_right": rate(self.revised[0][1], self.revised[0][0]),
            "right_to_right": rate(self.revised[1][1], self.revised[1][0]),
            **{by_reward(REVISIONS_TRUNCATED, r): rate(self.revised[r][2], self.revised[r][0]) for r in (0, 1)},
        }


def _counted(counts: Mapping[str, int]) -> str:
    """102 duplicates, 3 dropped by cleaning"""
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
