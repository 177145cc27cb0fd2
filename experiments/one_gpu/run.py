"""Runs the experiment: every job whose needs are there, on free GPUs, until all are done or time is up.

    bash scripts/experiments/one_gpu.sh [JOB ...]       these jobs and what they need; without names, all of them
    bash scripts/experiments/one_gpu.sh --list          the jobs, and which are done
    bash scripts/experiments/one_gpu.sh --results DIR   table, JSON and plot of evaluated models, Phase 2's steps
    bash scripts/experiments/one_gpu.sh --curves DIR    validation curves of Phase 2: plot, table and JSON
    bash scripts/experiments/one_gpu.sh --export FILE   a .tar.gz of all results without the models
    bash scripts/experiments/one_gpu.sh --import FILE   to go on elsewhere: evaluated models are not made again

Environment: MODEL_PATH (default: Qwen/Qwen2.5-Coder-1.5B-Instruct), OUTPUT (default: outputs/one_gpu),
GPUS (e.g. 0,1; default: all visible ones), MINUTES (default: no limit; stops everything after so many, and the
same command continues), PLAN (default: experiments/one_gpu/plan.yaml, the jobs and their knobs), SEED (of the jobs
to which the plan gives none); other knobs of the scripts are the plan's. The log of a job is OUTPUT/<job>/job.log.
An OUTPUT is about one model, and a job that was done with other knobs is refused, by --results and --curves, too.

PLAN=experiments/one_gpu/number_puzzles.yaml has the main rows on other tasks, in an OUTPUT of their own.

PLAN=experiments/one_gpu/quickstart.yaml runs on CPUs in the quickstart's world, which it makes: SEED (default: 0)
and SLIP_PROBABILITY (default: 0.4) are the world's, too, and the model is its base model, whatever MODEL_PATH is.
All worlds and seeds: scripts/experiments/quickstart_rivals.sh.
"""

import math
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from experiments.arguments import let_the_plan_decide, number, refuse_options
from experiments.one_gpu.archive import export_results, import_results
from experiments.one_gpu.curves import write_curves
from experiments.one_gpu.plan import (
    PLAN,
    REPOSITORY,
    SCRIPTS,
    WORLD,
    Job,
    Layout,
    load_jobs,
    problems_of,
    with_ancestors,
)
from experiments.one_gpu.problems import check_problems, write_problems
from experiments.one_gpu.results import write_results
from experiments.one_gpu.reuse import DECIDES_NOTHING, check_jobs, check_model
from experiments.one_gpu.running import RunningJob, is_done, record_of, start
from srt.common.entry_point import run_entry_point
from srt.common.name_values import show_help

POLL_SECONDS = 1.0


@dataclass
class Scheduler:
    """Free GPUs take the first job, in the order of the plan, whose needs are done.

    An evaluation of a model from which another job trains comes after all others: that job takes longer, and has
    an evaluation of its own before it.
    """

    jobs: dict[str, Job]
    wanted: list[str]
    layout: Layout
    gpus: list[str]
    deadline: float

    def __post_init__(self) -> None:
        self.free = dict.fromkeys(self.gpus, 1.0)  # the share of each GPU that no job has
        self.running: list[RunningJob] = []
        self.failed: set[str] = set()

    def run(self) -> bool:
        """True when every wanted job is done, or only led to results that are there already."""
        try:
            while time.monotonic() < self.deadline:
                self._collect_finished()
                self._start_what_can_run()
                if not self.running:
                    break
                time.sleep(POLL_SECONDS)
            else:
                print("time is up; the same command continues")
        finally:
            for job in self.running:
                job.stop()
        return not any(self._is_open(name) for name in self.wanted)

    def _done(self, name: str) -> bool:
        return is_done(self.jobs[name], self.layout)

    def _collect_finished(self) -> None:
        for running in [job for job in self.running if job.ended]:
            self.running.remove(running)
            for gpu in running.gpus:
                self.free[gpu] += running.share
            if not running.succeeded():
                self.failed.add(running.job.name)

    def _start_what_can_run(self) -> None:
        for name in sorted(self.wanted, key=self._can_wait):
            job = self.jobs[name]
            busy = {running.job.name for running in self.running}
            if name in busy or name in self.failed or not self._is_open(name):
                continue
            # A collection is one folder, in which one process works at a time.
            shares_folder = job.run in ("collect", "select") and any(
                self.jobs[other].run in ("collect", "select") for other in busy
            )
            if shares_folder or not all(self._done(need) for need in job.needs):
                continue
            gpus = self._take_gpus(job)
            if gpus is not None:
                self.running.append(start(job, self.jobs, self.layout, gpus))
            elif job.gpus > 1:
                return  # let GPUs become free for it

    def _can_wait(self, name: str) -> bool:
        job = self.jobs[name]
        trained_from = {
            need for other in self.wanted if self.jobs[other].makes_model for need in self.jobs[other].needs
        }
        return job.run == "evaluate" and job.source in trained_from

    def _take_gpus(self, job: Job) -> list[str] | None:
        """GPUs for the job, which are no longer free then; None if too few are. A shared one fills up first."""
        free = [gpu for gpu in sorted(self.free, key=self.free.__getitem__) if self.free[gpu] >= job.share]
        count = min(job.count, len(self.gpus))
        if len(free) < count:
            return None
        for gpu in free[:count]:
            self.free[gpu] -= job.share
        return free[:count]

    def _is_open(self, name: str) -> bool:
        """Not done, and still needed: an evaluated model is not made again, unless another job needs it."""
        dependents = [other for other in self.wanted if name in self.jobs[other].needs]
        return not self._done(name) and (not dependents or any(map(self._is_open, dependents)))


def visible_gpus() -> list[str]:
    """GPUS, or all that CUDA shows; [""] (one job at a time) without any."""
    if given := os.environ.get("GPUS") or os.environ.get("CUDA_VISIBLE_DEVICES"):
        return given.split(",")
    import torch

    return [str(index) for index in range(torch.cuda.device_count())] or [""]


def prepare_problems(layout: Layout, problems: str) -> None:
    """Write the problem files, unless they are there; in the quickstart's world with the base model."""
    if problems == "quickstart":
        from experiments.one_gpu.quickstart_world import prepare_world

        prepare_world(layout, int(number("SEED", 0)), number("SLIP_PROBABILITY", 0.4))
    elif layout.problems("test").is_file():
        check_problems(layout.problems("test"), problems)
    else:
        print("problems:", write_problems(layout.output / "problems", problems))


def show(jobs: dict[str, Job], layout: Layout) -> None:
    for name, job in jobs.items():
        record = record_of(job, layout)
        state = f"done, {record['seconds']:.0f} s" if record else "open"
        print(f"{name:<36} {job.run:<9} {'after ' + ', '.join(job.needs) if job.needs else '':<28} {state}")


def stop_on_sigterm() -> None:
    """A killed run ends its jobs first."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)


def main(arguments: list[str]) -> None:
    show_help(arguments, __doc__)
    output = Path(os.environ.get("OUTPUT", REPOSITORY / "outputs" / "one_gpu")).expanduser().resolve()
    plan = Path(os.environ.get("PLAN", PLAN))
    problems = problems_of(plan)
    model = os.environ.get("MODEL_PATH", "Qwen/Qwen2.5-Coder-1.5B-Instruct")
    layout = Layout(output, str(output / WORLD / "base") if problems == "quickstart" else model)
    jobs = load_jobs(plan, os.environ.get("SEED"))
    match arguments:
        case ["--list"]:
            show(jobs, layout)
            return
        case ["--results", folder]:
            check_jobs(jobs.values(), layout)
            write_results(jobs, layout, Path(folder), "one_gpu" if plan.stem == "plan" else plan.stem)
            return
        case ["--curves", folder]:
            check_jobs(jobs.values(), layout)
            write_curves(jobs, layout, Path(folder))
            return
        case ["--export", file]:
            export_results(layout.output, Path(file))
            return
        case ["--import", file]:
            import_results(Path(file), jobs.values(), layout)
            return
    refuse_options(arguments, __doc__)
    wanted = with_ancestors(arguments or list(jobs), jobs)
    minutes = number("MINUTES", math.inf)
    check_jobs((jobs[name] for name in wanted), layout)
    prepare_problems(layout, problems)
    let_the_plan_decide(SCRIPTS.values(), DECIDES_NOTHING)
    check_model(layout.output, layout.model)
    stop_on_sigterm()
    scheduler = Scheduler(jobs, wanted, layout, visible_gpus(), time.monotonic() + 60 * minutes)
    complete = scheduler.run()
    show({name: jobs[name] for name in wanted}, layout)
    for name in scheduler.failed:
        print(f"failed: {name}; see {layout.folder(name) / 'job.log'}")
    if not complete:
        sys.exit(1)


if __name__ == "__main__":
    run_entry_point(main)
