"""What a run says while it runs: metrics, logged responses, the progress bar's lines, warnings."""

import math
from pathlib import Path
from typing import Any

from opsd.config import DistillConfig
from opsd.local.optimizer_step import PairWithKL
from opsd.metrics import MetricsLog, open_step_log
from opsd.monitors import HealthMonitor, check_reviser
from opsd.validation import Validation
from srt.contract.layout import Layout


class RunLog:
    """metrics.jsonl, TensorBoard and samples.jsonl, going on after the steps before `first_step`."""

    def __init__(self, config: DistillConfig, layout: Layout, output_dir: Path, first_step: int):
        self.layout = layout
        self.period = config.log_samples_period
        self.metrics = MetricsLog(output_dir, first_step, config.report_to)
        self.samples = open_step_log(output_dir / "samples.jsonl", first_step)
        self.health = HealthMonitor()
        for figures in self.metrics.earlier:
            self.health.check(figures)  # its warnings were given then

    def step(self, step: int, figures: dict[str, Any], bar: Any) -> None:
        self.metrics.write(step, figures)
        kl_r0, kl_r1 = (figures.get(name, math.nan) for name in ("kl_r0", "kl_r1"))
        bar.set_postfix_str(
            f"reward {figures['reward']:.1%}, KL {figures['kl']:.4f} (r0 {kl_r0:.4f}, r1 {kl_r1:.4f}), "
            f"{figures['response_tokens']:.0f} tokens",
            refresh=False,
        )
        bar.update(1)
        for warning in self.health.check(figures):
            bar.write(f"warning, step {step}: {warning}")

    def validation(self, validation: Validation, bar: Any) -> None:
        """The newest validation in words."""
        line, best = validation.lines[-1], validation.best
        revised = [
            f", {line[f'revise_r{r}']:.1%} after revising {name} ones"
            for r, name in ((0, "wrong"), (1, "right"))
            if line.get(f"revise_r{r}") is not None
        ]
        bar.write(
            f"step {line['step'] + 1}: validation avg@{validation.samples} {line['avg_at_k']:.1%}, "
            f"{line['response_tokens']:.0f} tokens{''.join(revised)}"
        )
        if line["step"] == -1 and (warning := check_reviser(line)):
            bar.write(f"warning: {warning}")
        if validation.collapsed:
            bar.write(
                f"stopping: that is more than STOP_ON_COLLAPSE={validation.margin} below the "
                f"{best['avg_at_k']:.1%} after step {best['step'] + 1}, whose student is kept"
            )

    def responses(self, step: int, scored: list[PairWithKL]) -> None:
        """Every LOG_SAMPLES_PERIOD steps: responses with the KL of each token: where the teacher disagrees."""
        if step % self.period:
            return
        for one in scored:
            rollout = one.pair.rollout
            self.samples.append(
                {
                    "step": step,
                    "id": rollout.problem.id,
                    "x": rollout.problem.x,
                    "r": rollout.r,
                    "p_r": self.layout.phrases.text(rollout.r),
                    "tokens": [self.layout.tokenizer.decode([token]) for token in one.pair.targets],
                    "kl": [round(value, 5) for value in one.token_kl],
                }
            )

    def close(self) -> None:
        self.metrics.close()
        self.samples.close()
