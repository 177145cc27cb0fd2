"""The figures of a step, apart for right (r1) and wrong (r0) responses, and where they are written."""

import math
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import torch

from opsd.kl import KLOutput
from opsd.pairs import Rollout, SequencePair
from srt.common.files import JsonlLog, write_jsonl


@dataclass
class StepMetrics:
    """Sums over the tokens of a step; `means()` gives the averages."""

    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    tokens: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, pairs: list[SequencePair], output: KLOutput) -> None:
        """The per-token figures of one micro-batch; its rows stand in `output` one after the other."""
        per_token = {
            "kl": output.token_kl,
            "top1_agreement": output.top1_agreement,
            "entropy": output.student_entropy,
            "teacher_entropy": output.teacher_entropy,
            "logprob": output.student_logprob,
        }
        if output.dropped_vocab_fraction is not None:
            rows = len(output.token_kl)
            self.sums["dropped_vocab_fraction"] += output.dropped_vocab_fraction * rows
            self.tokens["dropped_vocab_fraction"] += rows
        table = torch.stack([values.float() for values in per_token.values()]).cpu()  # one transfer
        sizes = [len(pair.targets) for pair in pairs]
        for pair, columns in zip(pairs, table.split(sizes, dim=1), strict=True):
            sums = dict(zip(per_token, columns.sum(1).tolist(), strict=True))
            sampled = torch.tensor(pair.rollout.logprobs[: columns.shape[1]])
            sums["logprob_gap"] = float((columns[-1] - sampled).abs().sum())
            del sums["logprob"]
            for name, total in sums.items():
                self._add(name, pair, total, columns.shape[1])

    def _add(self, name: str, pair: SequencePair, total: float, tokens: int) -> None:
        for key in (name, f"{name}_r{pair.rollout.r}"):
            self.sums[key] += total
            self.tokens[key] += tokens

    def means(self) -> dict[str, float]:
        return {key: self.sums[key] / self.tokens[key] for key in sorted(self.sums)}


def rollout_metrics(rollouts: list[Rollout]) -> dict[str, float]:
    """Reward and length of a step's responses; all figures are means over responses."""
    lengths = [len(rollout.y) for rollout in rollouts]
    return {
        "reward": sum(rollout.r for rollout in rollouts) / len(rollouts),
        "response_tokens": sum(lengths) / len(lengths),
        "truncated": sum(rollout.finish_reason == "length" for rollout in rollouts) / len(rollouts),
    }


def open_step_log(path: Path, first_step: int) -> JsonlLog:
    """A log whose lines name their `step`, without the lines of steps that a resumed run does again.

    `entries` of the log are the lines that stayed.
    """
    log = JsonlLog(path)  # cuts off a torn last line
    if all(line["step"] < first_step for line in log.entries):
        return log
    log.close()
    write_jsonl(path, [line for line in log.entries if line["step"] < first_step])
    return JsonlLog(path)


class MetricsLog:
    """metrics.jsonl and TensorBoard; `earlier` holds the lines of the steps before `first_step`."""

    def __init__(self, output_dir: Path, first_step: int, report_to: str):
        self._log = open_step_log(output_dir / "metrics.jsonl", first_step)
        self.earlier = self._log.entries
        self._board = None
        if report_to == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(output_dir / "tensorboard"), purge_step=first_step)

    def write(self, step: int, figures: dict) -> None:
        """One line; a figure that is not finite becomes null, since NaN is no JSON."""
        finite = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in figures.items()
        }
        self._log.append({"step": step, **finite})
        if self._board:
            for name, value in figures.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._log.close()
        if self._board:
            self._board.close()
