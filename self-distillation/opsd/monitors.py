"""Warnings for known failure modes of Phase 2."""

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

from srt.common.errors import UserError
from srt.contract import metrics as names
from srt.contract.metrics import by_age, by_reward

WINDOW = 10  # steps that are averaged
FIRST_STEPS = 3  # whose mean later steps are compared with
UNREWARDED_STEPS = 5  # from the start
KL_RATIO = 2.0
KL_FLOOR = 0.02  # nats per token; below it a ratio means nothing
MIN_RESPONSES = 64  # in the window, as evidence of a difference between right and wrong ones
ENTROPY_FRACTION = 0.1
GAP_LIMIT = 0.05  # nats per token
MAX_FIRST_GAP = 0.5  # nats per token; precision alone makes a tenth of that
GAP_GROWTH, GAP_FLOOR = 3.0, 0.02  # relative to the first steps; nats per token
REWARD_DROP, REWARD_ERRORS = 0.05, 3.0  # a drop must exceed both, the second one in standard errors
KEPT_RIGHT, MIN_REVISIONS = 0.8, 20  # what a reviser should reach, and how many revisions are evidence
KL_R0, KL_R1 = by_reward(names.KL, 0), by_reward(names.KL, 1)
# With ROLLOUT_AHEAD, all tokens but those of the first step are one update old.
GAPS = (names.LOGPROB_GAP, by_age(names.LOGPROB_GAP, 1))
WATCHED = (KL_R0, KL_R1, names.ENTROPY, *GAPS, names.REWARD, names.ROLLOUTS)


def check_reviser(validation: Mapping[str, Any]) -> str | None:
    """A warning about the SRT model as a teacher, from the validation before the first step."""
    kept = validation.get(by_reward(names.REVISE, 1))
    if kept is None or kept >= KEPT_RIGHT or validation[by_reward(names.REVISIONS, 1)] < MIN_REVISIONS:
        return None
    return (
        f"asked to rephrase its right responses, the SRT model keeps only {kept:.1%} of them right: as a teacher "
        "it will pull the student away from right answers; REVISE_CORRECT=1 in Phase 1 trains it to keep them"
    )


def require_on_policy(metrics: Mapping[str, Any]) -> None:
    """Raises UserError when sampler and trainer are different models. `metrics`: of the first step."""
    gap = metrics.get(names.LOGPROB_GAP)
    if gap is not None and not gap <= MAX_FIRST_GAP:
        raise UserError(
            f"sampler and trainer disagree on the log-probs of sampled tokens by {gap:.2f} nats per token in the "
            f"first step, {MAX_FIRST_GAP} at most are expected: they compute different models, and nothing that "
            "follows would be on-policy. No checkpoint was written. SAMPLER=transformers, in a new OUTPUT_DIR, "
            "samples with the trainer's own model"
        )


class HealthMonitor:
    """Watches the metrics of the steps; each warning is given once, until its cause has passed."""

    def __init__(self) -> None:
        self.recent: dict[str, deque[float]] = {}
        self.first: dict[str, float] = {}  # means over the first steps
        self.best_reward: float | None = None  # the highest mean over a whole window
        self.active: set[str] = set()
        self.unrewarded_steps: int | None = 0  # from the start; None once a response was right

    def check(self, metrics: Mapping[str, Any]) -> list[str]:
        """The warnings that begin with this step. A metric may be missing or None."""
        for name in WATCHED:
            if metrics.get(name) is not None:
                self.recent.setdefault(name, deque(maxlen=WINDOW)).append(metrics[name])
        if self.unrewarded_steps is not None and metrics.get(names.REWARD) is not None:
            self.unrewarded_steps = None if metrics[names.REWARD] else self.unrewarded_steps + 1
        mean = {name: sum(values) / len(values) for name, values in self.recent.items()}
        for name, values in self.recent.items():
            if len(values) <= FIRST_STEPS:
                self.first[name] = mean[name]
        warnings = {
            "no reward": self._check_any_reward(),
            "kl": self._check_kl(mean.get(KL_R0), mean.get(KL_R1)),
            "reward": self._check_reward(mean.get(names.REWARD)),
            "entropy": self._check_entropy(mean.get(names.ENTROPY)),
            "gap": self._check_gap(mean),
            "cache": _check_cache(metrics),
        }
        new = [text for name, text in warnings.items() if text and name not in self.active]
        self.active = {name for name, text in warnings.items() if text}
        return new

    def _check_any_reward(self) -> str | None:
        if not self.unrewarded_steps or self.unrewarded_steps < UNREWARDED_STEPS:
            return None
        return (
            f'no response has been right in {UNREWARDED_STEPS} steps, so that every cue says "wrong" and nothing '
            "tells the student what is right: check a few responses in samples.jsonl against the answers of the "
            "dataset, PROMPT_SUFFIX, and whether responses are cut off (MAX_TOTAL_SEQUENCE_LENGTH)"
        )

    def _check_kl(self, kl_r0: float | None, kl_r1: float | None) -> str | None:
        if kl_r0 is None or kl_r1 is None or kl_r1 <= KL_FLOOR or kl_r1 <= KL_RATIO * kl_r0:
            return None
        # A few small steps say little: the teacher may disagree with three right responses by chance.
        if min(len(self.recent[name]) for name in (KL_R0, KL_R1)) < WINDOW or self._responses < MIN_RESPONSES:
            return None
        return (
            f"the teacher disagrees far more with right responses (KL {kl_r1:.3f}) than with wrong ones "
            f"({kl_r0:.3f}): a reviser that changes right answers drags the student down. Check the SRT "
            "model's accuracy when asked to rephrase a right answer; REVISE_CORRECT=1 in Phase 1 trains it"
        )

    @property
    def _responses(self) -> int:
        """Of the recent steps."""
        return int(sum(self.recent.get(names.ROLLOUTS, ())))

    def _check_reward(self, reward: float | None) -> str | None:
        responses = self._responses
        if reward is None or not responses or len(self.recent[names.REWARD]) < WINDOW:
            return None
        self.best_reward = max(reward, self.best_reward or 0)
        standard_error = math.sqrt(2 * 0.25 / responses)  # at most, of the difference of two such means
        if self.best_reward - reward <= max(REWARD_DROP, REWARD_ERRORS * standard_error):
            return None
        return (
            f"the reward fell to {reward:.1%} from {self.best_reward:.1%} (means over {WINDOW} steps): the "
            "teacher leads the student to worse answers, whatever the KL says. STOP_ON_COLLAPSE ends such a run "
            "at a validation and keeps the best student; try a lower or decaying LR first"
        )

    def _check_entropy(self, entropy: float | None) -> str | None:
        if entropy is None or entropy >= ENTROPY_FRACTION * self.first[names.ENTROPY]:
            return None
        return (
            f"the student's entropy fell to {entropy:.4f} nats per token from {self.first[names.ENTROPY]:.4f} "
            "in the first steps: its responses are becoming identical. A lower LR, or an earlier checkpoint, "
            "preserves their diversity"
        )

    def _check_gap(self, mean: Mapping[str, float]) -> str | None:
        measured = max(GAPS, key=lambda name: len(self.recent.get(name, ())))
        if measured not in mean:
            return None
        gap, first = mean[measured], self.first[measured]
        if gap <= GAP_LIMIT and gap <= max(GAP_FLOOR, GAP_GROWTH * first):
            return None
        return (
            f"sampler and trainer disagree on the log-probs of sampled tokens by {gap:.3f} nats (in the "
            f"first steps by {first:.3f}): the sampler may be using stale weights or another precision"
        )


def _check_cache(metrics: Mapping[str, Any]) -> str | None:
    """Of this step alone."""
    waited, preemptions = (metrics.get(name) or 0 for name in (names.WAITED_FOR_CACHE, names.PREEMPTIONS))
    if not waited and not preemptions:
        return None
    return (
        f"vLLM's KV cache bounds the batch: requests waited for room in it in {waited:.0%} of vLLM's steps (up to "
        f"{metrics[names.REQUESTS_WAITING]} at once), {preemptions} were preempted, and "
        f"{metrics[names.REQUESTS_RUNNING]:.0f} ran on average. A higher GPU_MEMORY_UTILIZATION makes it larger, "
        "a lower MAX_TOTAL_SEQUENCE_LENGTH lets more responses fit"
    )
