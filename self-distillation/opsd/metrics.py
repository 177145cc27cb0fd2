"""A step's metrics, apart for right (r = 1) and wrong (r = 0) responses. Their names: srt/contract/metrics.py."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from opsd.engine import UpdateResult
from opsd.kl import KLOutput
from opsd.pairs import SequencePair
from opsd.rollouts import Rollout
from srt.contract import metrics as names
from srt.contract.metrics import by_age, by_reward
from srt.contract.records import Problem


@dataclass(frozen=True)
class StepOutput:
    """What a step made. `rollouts` lack the problems that were set aside; `seconds`: where the time went;
    `sampling`: metrics of how the responses were sampled."""

    problems: list[Problem]
    rollouts: list[Rollout]
    pairs: list[SequencePair]
    result: UpdateResult
    seconds: dict[str, float]
    sampling: dict[str, float] = field(default_factory=dict)

    def metrics(self) -> dict[str, Any]:
        """A line of metrics.jsonl."""
        per_token = TokenMetrics(self.result.scored)
        means = per_token.means()
        return {
            **rollout_metrics(self.rollouts),
            **means,
            **({names.LOSS: means[names.KL]} if means else {}),
            **self.result.optimizer,
            **self.sampling,
            names.ROLLOUTS: len(self.rollouts),
            names.TRAINED_RESPONSES: len(self.pairs),
            names.TRAINED_TOKENS: per_token.tokens[names.KL],
            names.SHORTENED_FOR_TEACHER: sum(len(pair.targets) < len(pair.rollout.y) for pair in self.pairs),
            names.SET_ASIDE: len(self.problems) - len(self.rollouts),
            names.SECONDS: {name: round(value, 4) for name, value in self.seconds.items()},
        }


class TokenMetrics:
    """Sums over the tokens of scored micro-batches; `tokens` counts them, `means` divides by the counts."""

    def __init__(self, scored: Iterable[tuple[list[SequencePair], KLOutput]]) -> None:
        self.sums: dict[str, float] = defaultdict(float)
        self.tokens: dict[str, int] = defaultdict(int)
        for pairs, output in scored:
            self._add_batch(pairs, output)

    def means(self) -> dict[str, float]:
        return {key: self.sums[key] / self.tokens[key] for key in sorted(self.sums)}

    def _add_batch(self, pairs: list[SequencePair], output: KLOutput) -> None:
        if output.dropped_vocab_fraction is not None:
            tokens = len(output.token_kl)
            self._add(names.DROPPED_VOCAB_FRACTION, output.dropped_vocab_fraction * tokens, tokens)
        per_token = {
            names.KL: output.token_kl,
            names.TOP1_AGREEMENT: output.top1_agreement,
            names.ENTROPY: output.student_entropy,
            names.TEACHER_ENTROPY: output.teacher_entropy,
            "logprob": output.student_logprob,
        }
        computed = {name: values.float() for name, values in per_token.items() if values is not None}
        table = torch.stack(list(computed.values())).cpu()  # (metrics, T)
        for pair, columns in zip(pairs, table.split([len(pair.targets) for pair in pairs], dim=1), strict=True):
            tokens = columns.shape[1]
            sums = dict(zip(computed, columns.sum(1).tolist(), strict=True))
            has_logprob = sums.pop("logprob", None) is not None
            for name, total in sums.items():
                self._add(name, total, tokens)
                self._add(by_reward(name, pair.rollout.r), total, tokens)
            if has_logprob:
                sampled = torch.tensor(pair.rollout.logprobs[:tokens])
                self._add_gaps((columns[-1] - sampled).abs(), pair.rollout)

    def _add_gaps(self, gaps: torch.Tensor, rollout: Rollout) -> None:
        """The log-prob gaps of a response, (T,), apart by the age of the token: older weights drew older ones, so
        their gap says nothing about the sampler."""
        ages = torch.tensor([0] * len(gaps) if rollout.ages is None else rollout.ages[: len(gaps)])
        for age in ages.unique().tolist():
            of_age = gaps[ages == age]
            self._add(by_age(names.LOGPROB_GAP, age), float(of_age.sum()), len(of_age))
            if age == 0:
                self._add(by_reward(names.LOGPROB_GAP, rollout.r), float(of_age.sum()), len(of_age))

    def _add(self, key: str, total: float, tokens: int) -> None:
        self.sums[key] += total
        self.tokens[key] += tokens


def validation_metrics(rollouts: list[Rollout]) -> dict[str, float]:
    """`rollout_metrics` with the names of a validation, and what tells whether its responses still differ."""
    metrics = rollout_metrics(rollouts)
    solved: dict[str, bool] = defaultdict(bool)
    for rollout in rollouts:
        solved[rollout.problem.id] |= bool(rollout.r)
    logprobs = [logprob for rollout in rollouts for logprob in rollout.logprobs]
    return {
        names.AVG_AT_K: metrics.pop(names.REWARD),
        names.PASS_AT_K: sum(solved.values()) / len(solved),
        names.PROBLEMS: len(solved),
        **({names.ENTROPY: -sum(logprobs) / len(logprobs)} if logprobs else {}),
        **metrics,
    }


def rollout_metrics(rollouts: list[Rollout]) -> dict[str, float]:
    """Reward, length and truncated share; means over responses, and the 90th percentile of the lengths."""
    lengths = sorted(len(rollout.y) for rollout in rollouts)
    return {
        names.REWARD: sum(rollout.r for rollout in rollouts) / len(rollouts),
        names.RESPONSE_TOKENS: sum(lengths) / len(lengths),
        names.RESPONSE_TOKENS_P90: lengths[-(-9 * len(lengths) // 10) - 1],
        names.TRUNCATED: sum(rollout.finish_reason == "length" for rollout in rollouts) / len(rollouts),
    }
