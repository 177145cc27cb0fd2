"""The loss beyond the paper's KL: what KL_CLIP leaves of it, and the terms of REWARD_WEIGHT and SRT_REPLAY."""

from collections.abc import Iterable, Sequence

from opsd.config import DistillConfig
from opsd.engine import ScoredBatch
from srt.contract import metrics as names


def advantages(rewards: Sequence[int]) -> list[float]:
    """r minus a baseline, for each response of an update: the mean reward of the others.

    There is no group of responses to the same problem. As the baseline does not depend on the response itself, the
    gradient is unbiased (leave-one-out, as in arXiv:2402.14740, but over all responses of the update). A single
    response has the baseline 0.
    """
    others = max(1, len(rewards) - 1)
    return [r - (sum(rewards) - r) / others for r in rewards]


def loss_metrics(config: DistillConfig, scored: Iterable[ScoredBatch], **terms: float) -> dict[str, float]:
    """The loss and its parts, where it is not the mean KL alone; `terms`: unweighted, by the metrics' names."""
    weights = {names.REWARD_LOSS: config.reward_weight, names.REPLAY_LOSS: config.srt_replay_weight}
    if not (config.kl_clip or terms):
        return {}
    token_kl = [value for _, output in scored for value in output.token_kl.tolist()]
    clipped = [min(value, config.kl_clip or value) for value in token_kl]
    loss = sum(clipped) / len(clipped) + sum(weights[name] * value for name, value in terms.items())
    metrics = {names.LOSS: loss, **terms}
    if config.kl_clip:
        metrics[names.KL_CLIPPED] = sum(value > config.kl_clip for value in token_kl) / len(token_kl)
    return metrics
