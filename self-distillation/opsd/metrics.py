"""The figures of a step, apart for right (r1) and wrong (r0) responses, and where they are written."""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from opsd.kl import KLOutput
from opsd.rows import Pair, Rollout
from srt.files import JsonlLog, read_jsonl, writing


@dataclass
class StepMetrics:
    """Sums over the tokens of a step; `means()` gives the averages."""

    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    tokens: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, pairs: list[Pair], output: KLOutput) -> None:
        """The per-token figures of one micro-batch; its rows stand in `output` one after the other."""
        sizes = [len(pair.targets) for pair in pairs]
        per_token = {
            "kl": output.token_kl,
            "agreement": output.agreement.float(),
            "entropy": output.student_entropy,
            "teacher_entropy": output.teacher_entropy,
        }
        for name, values in per_token.items():
            for pair, part in zip(pairs, values.cpu().split(sizes), strict=True):
                self._add(name, pair, float(part.sum()), len(part))
        for pair, trained in zip(pairs, output.student_logprob.cpu().split(sizes), strict=True):
            sampled = pair.rollout.logprobs[: len(trained)]
            gap = sum(abs(a - b) for a, b in zip(trained.tolist(), sampled, strict=True))
            self._add("logprob_gap", pair, gap, len(trained))

    def _add(self, name: str, pair: Pair, total: float, tokens: int) -> None:
        for key in (name, f"{name}_r{pair.rollout.r}"):
            self.sums[key] += total
            self.tokens[key] += tokens

    def means(self) -> dict[str, float]:
        return {key: self.sums[key] / self.tokens[key] for key in sorted(self.sums)}


def rollout_figures(rollouts: list[Rollout]) -> dict[str, float]:
    """Reward and length of a step's responses; all figures are means over responses."""
    lengths = [len(rollout.y) for rollout in rollouts]
    return {
        "reward": sum(rollout.r for rollout in rollouts) / len(rollouts),
        "response_tokens": sum(lengths) / len(lengths),
        "truncated": sum(rollout.finish_reason == "length" for rollout in rollouts) / len(rollouts),
    }


class MetricsLog:
    """metrics.jsonl and TensorBoard. Lines of steps that a resumed run does again are dropped first."""

    def __init__(self, output_dir: Path, first_step: int, report_to: str):
        path = output_dir / "metrics.jsonl"
        if path.is_file():
            JsonlLog(path).close()  # cuts off a torn last line
            keep = [line for line in read_jsonl(path) if line["step"] < first_step]
            with writing(path) as temporary:
                log = JsonlLog(temporary)
                for line in keep:
                    log.append(line)
                log.close()
        self._log = JsonlLog(path)
        self._board = None
        if report_to == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(output_dir / "tensorboard"), purge_step=first_step)

    def write(self, step: int, figures: dict) -> None:
        self._log.append({"step": step, **figures})
        if self._board:
            for name, value in figures.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._log.close()
        if self._board:
            self._board.close()
