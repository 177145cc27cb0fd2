"""Names of the metrics in metrics.jsonl and validation.jsonl: Phase 2 writes them, the report reads them.

Per-token metrics (KL and below) also exist apart for responses of reward r: `by_reward(KL, 0)` is "kl_r0". In
metrics.jsonl, those of a validation carry the prefix VALIDATION.
"""

from typing import Any

# Means over the responses of a step.
REWARD = "reward"
RESPONSE_TOKENS = "response_tokens"
TRUNCATED = "truncated"

# Means over the tokens of y; nats where they have a unit.
KL = "kl"
ENTROPY = "entropy"
TEACHER_ENTROPY = "teacher_entropy"
TOP1_AGREEMENT = "top1_agreement"  # both models' most likely token is the same
LOGPROB_GAP = "logprob_gap"  # |log-prob in the sampler - in the trainer|
DROPPED_VOCAB_FRACTION = "dropped_vocab_fraction"  # what KL_GRAD_EPS left out of the gradient

# Of the optimizer, the last update of a step where there are several.
LOSS = "loss"
GRAD_NORM = "grad_norm"
LR = "lr"
PEAK_MEMORY_GIB = "peak_memory_gib"

# Counts.
ROLLOUTS = "rollouts"
TRAINED_RESPONSES = "trained_responses"
TRAINED_TOKENS = "trained_tokens"
SHORTENED_FOR_TEACHER = "shortened_for_teacher"
SET_ASIDE = "set_aside"

SECONDS = "seconds"  # where the step's time went: part -> seconds
WEIGHT_SYNC = "weight_sync"  # the part in which sampler and trainer exchange weights and memory

# Of a validation.
VALIDATION = "val_"
AVG_AT_K = "avg_at_k"
REVISE = "revise"  # by_reward: accuracy of y_revised after responses of that reward
REVISIONS = "revisions"  # by_reward: how many

_FORMER_NAMES = {"agreement": TOP1_AGREEMENT, "dropped_columns": DROPPED_VOCAB_FRACTION, "refresh": WEIGHT_SYNC}


def by_reward(name: str, r: int) -> str:
    """The metric over the responses of reward r alone."""
    return f"{name}_r{r}"


def with_current_names(line: dict[str, Any]) -> dict[str, Any]:
    """A line as it would be written today: runs from before version 0.2 had other names for a few metrics."""
    return {
        _current_name(name): with_current_names(value) if isinstance(value, dict) else value
        for name, value in line.items()
    }


def _current_name(name: str) -> str:
    for former, current in _FORMER_NAMES.items():
        if name in (former, by_reward(former, 0), by_reward(former, 1)):
            return current + name.removeprefix(former)
    return name
