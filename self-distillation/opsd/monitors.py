"""Plain words when Phase 2 goes wrong in a known way."""

import math
from collections import deque

WINDOW = 10  # steps that are averaged
FIRST = 3  # steps at the start with whose mean later ones are compared
KL_RATIO = 2.0
KL_FLOOR = 0.02  # nats per token; below it a ratio says nothing
ENTROPY_SHARE = 0.1
GAP_LIMIT = 0.05  # nats per token
GAP_GROWTH, GAP_FLOOR = 3.0, 0.02  # of what it was in the first steps; nats per token
REWARD_DROP, REWARD_ERRORS = 0.05, 3.0  # the fall must exceed both, the second one in standard errors
KEPT_RIGHT, FEWEST_REVISIONS = 0.8, 20  # what a reviser should reach, and how many say so
WATCHED = ("kl_r0", "kl_r1", "entropy", "logprob_gap", "reward", "rollouts")


def check_reviser(validation: dict[str, float | None]) -> str | None:
    """A warning about the SRT model as a teacher, from the validation before the first step."""
    kept = validation.get("revise_r1")
    if kept is None or kept >= KEPT_RIGHT or validation["revisions_r1"] < FEWEST_REVISIONS:
        return None
    return (
        f"asked to rephrase its right responses, the SRT model keeps only {kept:.1%} of them right: as a teacher "
        "it will pull right answers away; REVISE_CORRECT=1 in Phase 1 trains it for that"
    )


class HealthMonitor:
    """Watches the figures of the steps; each warning is given once until it has passed."""

    def __init__(self) -> None:
        self.recent: dict[str, deque[float]] = {}
        self.first: dict[str, float] = {}  # means over the first steps
        self.best_reward: float | None = None  # the highest mean over a whole window
        self.active: set[str] = set()

    def check(self, figures: dict[str, float | None]) -> list[str]:
        """The warnings that this step starts. A figure may be missing or None."""
        for name in WATCHED:
            if figures.get(name) is not None:
                self.recent.setdefault(name, deque(maxlen=WINDOW)).append(figures[name])
        mean = {name: sum(values) / len(values) for name, values in self.recent.items()}
        for name, values in self.recent.items():
            if len(values) <= FIRST:
                self.first[name] = mean[name]
        found = {
            "kl": self._kl(mean.get("kl_r0"), mean.get("kl_r1")),
            "reward": self._reward(mean.get("reward")),
            "entropy": self._entropy(mean.get("entropy")),
            "gap": self._gap(mean.get("logprob_gap")),
        }
        new = [text for name, text in found.items() if text and name not in self.active]
        self.active = {name for name, text in found.items() if text}
        return new

    def _kl(self, kl_r0: float | None, kl_r1: float | None) -> str | None:
        if kl_r0 is None or kl_r1 is None or kl_r1 <= KL_FLOOR or kl_r1 <= KL_RATIO * kl_r0:
            return None
        return (
            f"the teacher disagrees far more with right responses (KL {kl_r1:.3f}) than with wrong ones "
            f"({kl_r0:.3f}): a reviser that changes right answers drags the student down. Check the SRT "
            "model's accuracy when asked to rephrase a right answer; REVISE_CORRECT=1 in Phase 1 trains it"
        )

    def _reward(self, reward: float | None) -> str | None:
        responses = sum(self.recent.get("rollouts", ()))
        if reward is None or not responses or len(self.recent["reward"]) < WINDOW:
            return None
        self.best_reward = max(reward, self.best_reward or 0)
        error = math.sqrt(2 * 0.25 / responses)  # of the difference of two such means, at most
        if self.best_reward - reward <= max(REWARD_DROP, REWARD_ERRORS * error):
            return None
        return (
            f"the reward fell to {reward:.1%} from {self.best_reward:.1%} (means over {WINDOW} steps): the "
            "teacher leads the student to worse answers, whatever the KL says. STOP_ON_COLLAPSE ends such a run "
            "at a validation and keeps the best student; a lower or decaying LR is the first thing to try"
        )

    def _entropy(self, entropy: float | None) -> str | None:
        if entropy is None or entropy >= ENTROPY_SHARE * self.first["entropy"]:
            return None
        return (
            f"the student's entropy fell to {entropy:.4f} nats per token from {self.first['entropy']:.4f} in the "
            "first steps: its responses are becoming all alike. A lower LR, or the checkpoint of an earlier step, "
            "keeps them apart"
        )

    def _gap(self, gap: float | None) -> str | None:
        grown = gap is not None and gap > max(GAP_FLOOR, GAP_GROWTH * self.first["logprob_gap"])
        if gap is None or (gap <= GAP_LIMIT and not grown):
            return None
        return (
            f"sampler and trainer disagree on the log-probs of sampled tokens by {gap:.3f} nats (in the "
            f"first steps by {self.first['logprob_gap']:.3f}): the sampler may be using old weights or "
            "another precision"
        )
