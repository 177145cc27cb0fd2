"""Names of metrics in metrics.jsonl, validation.jsonl (Phase 2) and evaluation.json, which the report reads.

Per-token metrics (from KL on) are also logged separately by the reward r of the response: `by_reward(KL, 0)` is
"kl_r0". In metrics.jsonl, validation metrics have the prefix VALIDATION.
"""

from typing import Any

# Means over the responses of one step.
REWARD = "reward"
RESPONSE_TOKENS = "response_tokens"
RESPONSE_TOKENS_P90 = "response_tokens_p90"  # nine of ten responses are at most this long
TRUNCATED = "truncated"  # share that the token limit cut off

# Means over the tokens of y, in nats where they have a unit.
KL = "kl"
ENTROPY = "entropy"
TEACHER_ENTROPY = "teacher_entropy"
TOP1_AGREEMENT = "top1_agreement"  # both models' most likely token is the same
LOGPROB_GAP = (
    "logprob_gap"  # |log-prob in the sampler - log-prob in the trainer|, of tokens of the current weights
)
DROPPED_VOCAB_FRACTION = "dropped_vocab_fraction"  # share that KL_GRAD_EPS left out of the gradient

# Of the optimizer; with several updates in a step, of the last one.
LOSS = "loss"
KL_CLIPPED = "kl_clipped"  # share of tokens above KL_CLIP
REWARD_LOSS = "reward_loss"  # of REWARD_WEIGHT, before that weight
REPLAY_LOSS = "replay_loss"  # of SRT_REPLAY, before SRT_REPLAY_WEIGHT; nats per supervised token
GRAD_NORM = "grad_norm"
LR = "lr"
PEAK_MEMORY_GIB = "peak_memory_gib"

# Counts.
ROLLOUTS = "rollouts"
TRAINED_RESPONSES = "trained_responses"
TRAINED_TOKENS = "trained_tokens"
SHORTENED_FOR_TEACHER = "shortened_for_teacher"
SET_ASIDE = "set_aside"
TRAINED_ON = "trained_on"  # of an evaluation: phase -> problems that it trained the checkpoint on
JUDGED_BY_EXAMPLES_ONLY = "judged_by_examples_only"  # responses to code problems without hidden tests

# Of OVER_ISSUE and ROLLOUT_AHEAD. A token's age: steps between the one that drew it and the one that trains on it.
TOKEN_AGE = "token_age"  # mean over the tokens of y
TOKEN_AGE_MAX = "token_age_max"
STALE_TOKENS = "stale_tokens"  # share of the tokens of y with an age above 0
CARRIED_OVER = "carried_over"  # responses under way that the step left to later ones
AHEAD_SECONDS = (
    "ahead_seconds"  # that sampling and grading the step's responses took while the step before trained
)

# Of vLLM while it sampled the step's responses.
REQUESTS_RUNNING = "requests_running"  # mean
REQUESTS_WAITING = "requests_waiting"  # the largest number
KV_CACHE_USE = "kv_cache_use"  # the largest share
WAITED_FOR_CACHE = (
    "waited_for_cache"  # share of vLLM's steps after which the next request did not fit into the cache
)
PREEMPTIONS = "preemptions"  # requests that lost their part of the cache, and were computed again

SECONDS = "seconds"  # how long each part of the step took: part -> seconds
WEIGHT_SYNC = "weight_sync"  # the part that hands weights and GPU memory between trainer and sampler

# Of validation; its ENTROPY is estimated, as the mean -log-prob of the sampled tokens.
VALIDATION = "val_"
AVG_AT_K = "avg_at_k"
PASS_AT_K = "pass_at_k"  # share of the problems with at least one right response
PROBLEMS = "problems"  # number of problems with a graded response
REVISE = "revise"  # by_reward: accuracy of y_revised after responses of that reward
REVISIONS = "revisions"  # by_reward: number of those revisions
REVISIONS_TRUNCATED = "revisions_truncated"  # by_reward: share of them that the token limit cut off

# Of an evaluation, besides AVG_AT_K, ENTROPY, TRUNCATED and those of revisions.
PASS_AT = "pass"  # at: pass@k for one k
MAJORITY_AT = "majority"  # at: accuracy of the most frequent of k answers
REVISED = "revised"  # share of the responses that were revised
ACCURACY_AFTER = "accuracy_after"  # avg@k with each revision in the place of its response
BETTER_OF_BOTH = "better_of_both"  # the same, where the response counts if the revision is wrong
TOKENS_AFTER = "tokens_after"  # per response, with its revision
GAIN_PER_1000_TOKENS = "gain_per_1000_tokens"  # of accuracy, by the tokens of the revisions
GREEDY_ACCURACY = "greedy"  # of one response at temperature 0
MEAN_RESPONSE_TOKENS = "mean_response_tokens"
RESPONSE_TOKENS_PERCENTILES = {f"response_tokens_p{share}": share / 100 for share in (10, 50, 90, 99)}

# Of a teacher synchronization.
KL_BEFORE_SYNC = "kl_before_sync"  # to the former teacher, of the step's responses and the weights after the step
KL_AFTER_SYNC = "kl_after_sync"  # the same, to the new teacher

_FORMER_NAMES = {"agreement": TOP1_AGREEMENT, "dropped_columns": DROPPED_VOCAB_FRACTION, "refresh": WEIGHT_SYNC}


def by_reward(name: str, r: int) -> str:
    """The name of the metric over responses with reward r only."""
    return f"{name}_r{r}"


def by_age(name: str, age: int) -> str:
    """The name of the metric over tokens of that age only; those of age 0 have `name` itself."""
    return f"{name}_age{age}" if age else name


def at(name: str, k: int) -> str:
    """The name of PASS_AT or MAJORITY_AT for one k, such as "pass_at_8"."""
    return f"{name}_at_{k}"


def with_current_names(line: dict[str, Any]) -> dict[str, Any]:
    """A line of the log with today's names: before version 0.2, a few metrics had different ones."""
    return {
        _current_name(name): with_current_names(value) if isinstance(value, dict) else value
        for name, value in line.items()
    }


def _current_name(name: str) -> str:
    for former, current in _FORMER_NAMES.items():
        if name in (former, by_reward(former, 0), by_reward(former, 1)):
            return current + name.removeprefix(former)
    return name
