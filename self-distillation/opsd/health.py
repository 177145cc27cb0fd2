"""Plain words when Phase 2 goes wrong in a known way."""

from collections import deque

WINDOW = 10  # steps that are averaged
KL_RATIO = 2.0
KL_FLOOR = 0.02  # nats per token; below it a ratio says nothing
ENTROPY_SHARE = 0.1
GAP_LIMIT = 0.05  # nats per token


class Health:
    """Watches the figures of the steps; each warning is given once until it has passed."""

    def __init__(self) -> None:
        self.recent: dict[str, deque[float]] = {}
        self.first_entropy: float | None = None
        self.active: set[str] = set()

    def check(self, figures: dict[str, float | None]) -> list[str]:
        """The warnings that this step starts. A figure may be missing or None."""
        for name in ("kl_r0", "kl_r1", "entropy", "logprob_gap"):
            if figures.get(name) is not None:
                self.recent.setdefault(name, deque(maxlen=WINDOW)).append(figures[name])
        mean = {name: sum(values) / len(values) for name, values in self.recent.items()}
        if self.first_entropy is None:
            self.first_entropy = figures.get("entropy")
        found = {}
        kl_r0, kl_r1 = mean.get("kl_r0"), mean.get("kl_r1")
        if kl_r0 is not None and kl_r1 is not None and kl_r1 > KL_FLOOR and kl_r1 > KL_RATIO * kl_r0:
            found["kl"] = (
                f"the teacher disagrees far more with right responses (KL {kl_r1:.3f}) than with wrong ones "
                f"({kl_r0:.3f}): a reviser that changes right answers drags the student down. Check the SRT "
                "model's accuracy when asked to rephrase a right answer; REVISE_CORRECT=1 in Phase 1 trains it"
            )
        if self.first_entropy and mean.get("entropy", 1e9) < ENTROPY_SHARE * self.first_entropy:
            found["entropy"] = (
                f"the student's entropy fell to {mean['entropy']:.4f} nats per token from "
                f"{self.first_entropy:.4f} at the first step: its responses are becoming all alike. A lower LR, "
                "or the checkpoint of an earlier step, keeps them apart"
            )
        if mean.get("logprob_gap", 0) > GAP_LIMIT:
            found["gap"] = (
                f"sampler and trainer disagree on the log-probs of sampled tokens by {mean['logprob_gap']:.3f} "
                "nats: the sampler may be using old weights or another precision"
            )
        new = [text for name, text in found.items() if name not in self.active]
        self.active = set(found)
        return new
