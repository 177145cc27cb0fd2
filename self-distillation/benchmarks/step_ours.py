"""The arms "local" and "nemo-rl" of whole_step.py: the training loop of distill.sh, with the arm's knobs."""

import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from engine import layout_of
from step_common import BenchmarkRun, Options, Step, read_problems, run_config

from opsd.engine import Engine, UpdateResult
from opsd.pairs import SequencePair
from opsd.run import Run
from srt.common.files import read_jsonl
from srt.contract import metrics as names


class StepTimes:
    """Puts a clock around the engine's `update`, which every step ends with."""

    def __init__(self, engine: Any):
        self._update = engine.update
        self.updates: list[tuple[float, list[tuple[int, int]], float | None]] = []
        engine.update = self.update
        engine.save_checkpoint = lambda step: None

    def update(self, pairs: list[SequencePair]) -> UpdateResult:
        import torch

        measured = torch.cuda.is_initialized()  # not in the driver of NeMo-RL's workers, which tell it themselves
        if measured:
            torch.cuda.reset_peak_memory_stats()
        result = self._update(pairs)
        peak = torch.cuda.max_memory_allocated() / 2**30 if measured else None
        lengths = [(pair.student.start, len(pair.targets)) for pair in pairs]
        ended = time.monotonic()
        self.updates.append((ended, lengths, result.optimizer.get(names.PEAK_MEMORY_GIB, peak)))
        return result


def measure(options: Options, engine_name: str, knobs: dict[str, str]) -> dict[str, Any]:
    """Raises UserError where the engine refuses a knob."""
    from opsd import train as loop
    from opsd.distill import open_engine, worker_errors
    from opsd.select_engine import check_engine

    loop.export_student = lambda *_: None
    layout, problems = layout_of(options.model), read_problems(options)

    def run_of(folder: Path, steps: int, knobs: dict[str, str]) -> Run:
        folder.mkdir()
        config = run_config(options, engine_name, str(folder), steps, knobs)
        check_engine(config, engine_name)
        return BenchmarkRun(options, config, layout, problems, None, folder)

    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        run = run_of(Path(name, "timed"), options.steps, knobs)
        # Without what a step begins for later ones, so that the timed steps have all of their own work to do.
        warmup = run_of(Path(name, "warmup"), options.warmup, knobs | {"over_issue": "0"})
        with closing(open_engine(run)) as engine, worker_errors(run.config):
            start_seconds = time.monotonic() - started
            steps = time_steps(engine, [warmup, run])
        lines = read_jsonl(run.output_dir / "metrics.jsonl")
    for step, line in zip(steps, lines, strict=True):
        step.parts.update(line[names.SECONDS])
    others = {key: [line[key] for line in lines] for key in lines[0] if key in REPORTED}
    cue = len(layout.cue(0))  # every response is cut off, so r = 0
    return {"start_seconds": start_seconds, "cue": cue, "steps": [vars(step) for step in steps], **others}


REPORTED = {
    names.REQUESTS_RUNNING,
    names.REQUESTS_WAITING,
    names.PREEMPTIONS,
    names.KV_CACHE_USE,
    names.WAITED_FOR_CACHE,
    names.STALE_TOKENS,
    names.TOKEN_AGE_MAX,
    names.LOGPROB_GAP,
    names.KL,
}


def time_steps(engine: Engine, runs: list[Run]) -> list[Step]:
    """The steps of the last run."""
    from opsd.train import train

    times = StepTimes(engine)
    begun = 0.0
    for run in runs:
        times.updates.clear()
        begun = time.monotonic()
        train(run, engine)
    ends = [begun, *(ended for ended, _, _ in times.updates)]
    return [
        Step(ended - before, lengths, {}, peak)
        for before, (ended, lengths, peak) in zip(ends, times.updates, strict=False)
    ]
