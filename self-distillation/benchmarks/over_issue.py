"""Whole steps of the local engine, synchronous and with OVER_ISSUE, on the same problems with long-tailed lengths.

    PYTHONPATH=self-revision-training:self-distillation python self-distillation/benchmarks/over_issue.py \
        model=<SRT checkpoint> over_issue=0.25,0.5 json=over_issue.json

One engine makes all steps: after `warmup` synchronous ones, `steps` steps of each side in turn (sync, 0.25, 0.5,
sync, ...). The response to a problem has a length of its own, log-normal and cut at max_tokens, whatever is
sampled. So every side trains on the same problems with the same lengths, the first steps of an over-issued side on
shorter ones, the last on longer ones. Compare whole runs, therefore: `s/step` is the mean over all `steps`, and
more of them leave less to the two ends. The weights move on with every step of every side, by next to nothing.

Also printed: the share of time in which the GPU ran no kernel (NVML, every 100 ms; a GPU that decodes a single
response is not idle by this measure), the requests that vLLM ran at once, on average, and how old the tokens were.
"""

import json
import math
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from engine import layout_of
from step_common import RunOptions, read_problems, run_config

from opsd.response_queue import ResponseQueue
from opsd.rollouts import RolloutWorker
from opsd.run import Run
from srt.common.name_values import read_name_values
from srt.contract.records import Problem
from srt.sampling.base import SampleRequest, SamplingConfig

SYNCHRONOUS = "sync"


@dataclass(frozen=True)
class Options(RunOptions):
    over_issue: str = "0.25,0.5"
    steps: int = 10
    median: float = 600.0  # of the response length, in tokens
    sigma: float = 0.8  # of its logarithm


@dataclass(frozen=True)
class LongTailed(RolloutWorker):
    """Responses end at a length that was drawn for their place in the order of problems, and nowhere else."""

    options: Options = Options("")

    def request(self, problem: Problem, step: int, position: int, purpose: str = "train") -> SampleRequest:
        request = super().request(problem, step, position, purpose)
        options, draw = self.options, random.Random(request.seed)
        length = max(8, round(options.median * math.exp(options.sigma * draw.gauss(0, 1))))
        endless = SamplingConfig(1.0, 1.0, (len(self.layout.tokenizer) - 1,))  # a token that next to never comes
        return replace(request, max_tokens=min(length, options.max_tokens, request.max_tokens), sampling=endless)


class GpuIdle:
    """How busy the GPU was, by the side whose step was running."""

    def __init__(self) -> None:
        self.side: str | None = None
        self.busy: dict[str, list[int]] = defaultdict(list)
        self._ended = threading.Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        import torch

        thread = threading.Thread(target=self._watch, daemon=True)
        if torch.cuda.is_available():
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            if thread.is_alive():
                thread.join()

    def share(self, side: str) -> float | None:
        return 1 - statistics.mean(self.busy[side]) / 100 if self.busy[side] else None

    def _watch(self) -> None:
        import torch

        while not self._ended.wait(0.1):
            if side := self.side:
                self.busy[side].append(torch.cuda.utilization())


def measure(options: Options) -> dict[str, Any]:
    from opsd.local.engine import LocalEngine
    from opsd.train import train_step
    from srt.common.files import JsonlLog
    from srt.verifiers.math.grader import MathGrader

    layout, problems = layout_of(options.model), read_problems(options)
    sides = {SYNCHRONOUS: "0"} | {share: share for share in options.over_issue.split(",")}
    idle, lines = GpuIdle(), defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, MathGrader(2, time_limit_seconds=10) as grader:
        runs = {}
        for side, over_issue in sides.items():
            config = run_config(options, "local", folder, options.steps, {"over_issue": over_issue})
            runs[side] = Run(config, layout, problems, None, Path(folder))
        with (
            closing(LocalEngine(runs[SYNCHRONOUS], grader)) as engine,
            closing(JsonlLog(Path(folder, "set_aside.jsonl"))) as set_aside,
            idle.watching(),
        ):

            def queue_of(run: Run) -> ResponseQueue:
                worker = LongTailed(**vars(run.rollout_worker(grader, set_aside)), options=options)
                return ResponseQueue(run, worker, 0)

            first = queue_of(runs[SYNCHRONOUS])
            for step in range(options.warmup):
                train_step(first.run, engine, first, step)
            queues = {side: queue_of(run) for side, run in runs.items()}
            for step in range(options.steps):
                for side, queue in queues.items():
                    idle.side, started = side, time.monotonic()
                    metrics = train_step(queue.run, engine, queue, step).metrics()
                    metrics["wall"], idle.side = time.monotonic() - started, None
                    lines[side].append(metrics)
                    print(f"step {step + 1}, {side}: {metrics['wall']:.2f} s", flush=True)
            device = str(engine.student.model.device)
    return {
        "options": asdict(options),
        "device": device,
        "sides": {side: summary(made, idle.share(side)) for side, made in lines.items()},
    }


def summary(lines: list[dict[str, Any]], idle: float | None) -> dict[str, Any]:
    seconds = sum(line["wall"] for line in lines)
    tokens = sum(line["trained_tokens"] for line in lines)
    parts = {name for line in lines for name in line["seconds"]}
    running = [line["requests_running"] for line in lines if "requests_running" in line]
    return {
        "seconds_per_step": seconds / len(lines),
        "median_seconds": statistics.median(line["wall"] for line in lines),
        "trained_responses": sum(line["trained_responses"] for line in lines),
        "trained_tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "shares": {name: sum(line["seconds"].get(name, 0) for line in lines) / seconds for name in sorted(parts)},
        "gpu_idle": idle,
        "requests_running": statistics.mean(running) if running else None,
        "stale_tokens": sum(line.get("stale_tokens", 0) * line["trained_tokens"] for line in lines) / tokens,
        "token_age_max": max(line.get("token_age_max", 0) for line in lines),
    }


def print_table(figures: dict[str, Any]) -> None:
    base = figures["sides"][SYNCHRONOUS]["seconds_per_step"]
    print(
        f"\n{figures['device']}\n{'OVER_ISSUE':<12}{'s/step':>8}{'ratio':>8}{'tokens':>10}{'tokens/s':>10}", end=""
    )
    print(f"{'GPU idle':>10}{'running':>9}{'stale':>8}{'oldest':>8}  of the time")
    for side, row in figures["sides"].items():
        idle = "-" if row["gpu_idle"] is None else f"{row['gpu_idle']:.0%}"
        running = "-" if row["requests_running"] is None else f"{row['requests_running']:.1f}"
        shares = ", ".join(f"{name} {share:.0%}" for name, share in row["shares"].items() if share >= 0.01)
        print(
            f"{side:<12}{row['seconds_per_step']:>8.2f}{base / row['seconds_per_step']:>7.2f}x"
            f"{row['trained_tokens']:>10,}{row['tokens_per_second']:>10.0f}{idle:>10}{running:>9}"
            f"{row['stale_tokens']:>8.1%}{row['token_age_max']:>8}  {shares}"
        )


def main(arguments: list[str]) -> None:
    options = read_name_values(Options, arguments, __doc__)
    figures = measure(options)
    print_table(figures)
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
