"""The logs of a run: metrics.jsonl and REPORT_TO, samples.jsonl, warnings.jsonl and others, the progress bar."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from opsd.metrics import StepOutput
from opsd.monitors import HealthMonitor, check_reviser
from opsd.reporters import open_reporter, sample_row
from opsd.run import Run
from opsd.validation_monitor import ValidationMonitor
from srt.common.errors import UserError
from srt.common.files import JsonlLog, write_jsonl
from srt.common.progress import Progress
from srt.contract import metrics as names
from srt.contract.metrics import by_reward, with_current_names
from srt.contract.records import pack_ids

SHOWN_PARTS = 2  # of a step's time, on its line; metrics.jsonl has all of them
LOGGED_SAMPLES = 4  # responses of a step that go into samples.jsonl


class RunLog:
    """Continues the logs after the steps before `start_step`; later lines, which are made again, are dropped."""

    def __init__(self, run: Run, start_step: int, bar: Progress):
        self.run = run
        self.bar = bar
        self.set_aside = open_step_log(run.output_dir / "set_aside.jsonl", start_step)
        self.samples = open_step_log(run.output_dir / "samples.jsonl", start_step)
        self.warnings = open_step_log(run.output_dir / "warnings.jsonl", start_step)
        self.validations = (
            open_step_log(run.output_dir / "validation.jsonl", start_step) if run.validation_set else None
        )
        self.teacher_syncs = (
            open_step_log(run.output_dir / "teacher_sync.jsonl", start_step)
            if run.config.teacher_sync != "none"
            else None
        )
        self.metrics = MetricsLog(run.output_dir, start_step, run.config.report_to, asdict(run.config))
        self.health, self.validation_health = HealthMonitor(), ValidationMonitor()
        for line in self.metrics.earlier:
            self.health.check(line)  # these warnings were printed at the time
        for line in self.earlier_validations:
            self.validation_health.check(line)

    def step(self, step: int, metrics: dict[str, Any], output: StepOutput) -> None:
        """A line in metrics.jsonl and on the screen; every LOG_SAMPLES_PERIOD steps, responses in
        samples.jsonl."""
        if step % self.run.config.log_samples_period == 0:
            self._log_samples(step, output)
        self.metrics.write(step, metrics)
        total = self.run.total_steps
        self.bar.show((step + 1) / total, f"{step + 1}/{total}", *_headline(metrics))
        self.bar.message(step_line(step + 1, total, metrics, self.bar.left))
        for warning in self.health.check(metrics):
            self.warn(step, warning)

    @property
    def earlier_validations(self) -> list[dict[str, Any]]:
        """The lines of validation.jsonl from before this process."""
        return list(self.validations.entries) if self.validations else []

    @property
    def earlier_teacher_syncs(self) -> list[dict[str, Any]]:
        """The lines of teacher_sync.jsonl from before this process."""
        return list(self.teacher_syncs.entries) if self.teacher_syncs else []

    def teacher_sync(self, line: dict[str, Any]) -> None:
        if self.teacher_syncs:
            self.teacher_syncs.append(line)

    def validation(self, line: dict[str, Any]) -> None:
        """A line in validation.jsonl, and in words on the screen."""
        if self.validations:
            self.validations.append(line)
        self.bar.message(f"step {line['step'] + 1}: {validation_line(line, self.run.config.val_num_samples)}")
        if line["step"] == -1 and (warning := check_reviser(line)):
            self.warn(line["step"], warning)
        for warning in self.validation_health.check(line):
            self.warn(line["step"], warning)

    def warn(self, step: int, text: str) -> None:
        """A line in warnings.jsonl and on the screen. `step`: as in validation.jsonl, -1 before the first."""
        self.warnings.append({"step": step, "warning": text})
        self.bar.message(f"warning, step {step + 1}: {text}" if step >= 0 else f"warning: {text}")

    def message(self, text: str) -> None:
        self.bar.message(text)

    def close(self) -> None:
        for log in (
            self.metrics,
            self.samples,
            self.set_aside,
            self.warnings,
            self.validations,
            self.teacher_syncs,
        ):
            if log:
                log.close()

    def _log_samples(self, step: int, output: StepOutput) -> None:
        """The first responses of the step with the KL of each token: where the teacher disagrees."""
        token_kl = {id(scored.pair): scored.token_kl for scored in output.result.pairs_with_kl()}
        samples = [
            {
                "step": step,
                "id": pair.rollout.problem.id,
                "x": pair.rollout.problem.x,
                "r": pair.rollout.r,
                "p_r": self.run.layout.phrases.text(pair.rollout.r),
                "finish_reason": pair.rollout.finish_reason,
                "ids": pack_ids(pair.targets),
                "tokens": [self.run.layout.tokenizer.decode([token]) for token in pair.targets],
                "kl": [round(value, 5) for value in token_kl[id(pair)]],
            }
            for pair in output.pairs[:LOGGED_SAMPLES]
        ]
        for sample in samples:
            self.samples.append(sample)
        self.metrics.show_samples(step, samples)


def validation_line(line: Mapping[str, Any], k: int) -> str:
    """validation avg@8 61.3%, 812 tokens, 2.0% cut off, 40.1% after revising wrong ones (5.0% cut off), ..."""
    pass_at_k = line.get(names.PASS_AT_K)  # not in lines of version 0.2
    parts = [
        f"validation avg@{k} {line[names.AVG_AT_K]:.1%}",
        *([] if pass_at_k is None else [f"pass@{k} {pass_at_k:.1%}"]),
        f"{line[names.RESPONSE_TOKENS]:.0f} tokens",
        f"{line[names.TRUNCATED]:.1%} cut off",
    ]
    for r, name in ((0, "wrong"), (1, "right")):
        if (accuracy := line.get(by_reward(names.REVISE, r))) is not None:
            cut_off = line.get(by_reward(names.REVISIONS_TRUNCATED, r))  # not in lines of version 0.1
            share = "" if cut_off is None else f" ({cut_off:.1%} cut off)"
            parts.append(f"{accuracy:.1%} after revising {name} ones{share}")
    return ", ".join(parts)


def step_line(number: int, total: int, metrics: Mapping[str, Any], left: str = "") -> str:
    """step 12/80, 16:05 left: reward 61.3%, KL 0.0521 (r0 0.0931, r1 0.0214), 812 tokens, 14.2 s (generation 45%,
    student 30%)"""
    seconds = metrics[names.SECONDS]
    total_seconds = sum(seconds.values()) or 1.0
    largest = sorted(seconds.items(), key=lambda part: -part[1])[:SHOWN_PARTS]
    shares = ", ".join(f"{name} {value / total_seconds:.0%}" for name, value in largest)
    parts = [*_headline(metrics), f"{total_seconds:.1f} s ({shares})"]
    return f"step {number}/{total}{f', {left}' if left else ''}: {', '.join(parts)}"


def _headline(metrics: Mapping[str, Any]) -> tuple[str, str, str]:
    by_r = (by_reward(names.KL, r) for r in (0, 1))
    kl, kl_r0, kl_r1 = (  # a step may have no response of a reward, and with LOSS_ON=r0 none at all
        f"{metrics[name]:.4f}" if name in metrics else "none" for name in (names.KL, *by_r)
    )
    return (
        f"reward {metrics[names.REWARD]:.1%}",
        f"KL {kl} (r0 {kl_r0}, r1 {kl_r1})",
        f"{metrics[names.RESPONSE_TOKENS]:.0f} tokens",
    )


def open_step_log(path: Path, start_step: int) -> JsonlLog:
    """A log whose lines name their `step`, without those of steps that a resumed run makes again.

    `entries` of the log are the lines that remain.
    """
    log = JsonlLog(path)  # drops a torn last line
    for number, _, line in log.lines():
        if type(line.get("step")) is not int:
            raise UserError(f"{path}, line {number}: damaged (expected an object with a step); delete that line")
    if all(line["step"] < start_step for line in log.entries):
        return log
    log.close()
    write_jsonl(path, [line for line in log.entries if line["step"] < start_step])
    return JsonlLog(path)


class MetricsLog:
    """metrics.jsonl and the reporter of REPORT_TO; `earlier` holds the lines of the steps before `start_step`."""

    def __init__(self, output_dir: Path, start_step: int, report_to: str, config: Mapping[str, Any] | None = None):
        self._log = open_step_log(output_dir / "metrics.jsonl", start_step)
        self.earlier = [with_current_names(line) for line in self._log.entries]
        self._reporter = open_reporter(report_to, output_dir, start_step, config or {})

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """One line; a metric that is not finite becomes null, since JSON has no NaN."""
        finite = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in metrics.items()
        }
        self._log.append({"step": step, **finite})
        if self._reporter:
            numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
            self._reporter.metrics(step, numbers)

    def show_samples(self, step: int, samples: list[dict[str, Any]]) -> None:
        """As a table, where REPORT_TO has a place for it."""
        if self._reporter and samples:
            self._reporter.samples(step, [sample_row(sample) for sample in samples])

    def close(self) -> None:
        self._log.close()
        if self._reporter:
            self._reporter.close()
