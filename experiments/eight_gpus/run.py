"""The paper's configuration on 1, 2, 4 and 8 GPUs of one machine: throughput, memory, kills, and two nodes.

    bash scripts/experiments/eight_gpus.sh [JOB ...] [-JOB ...]   these jobs, or all but those with a minus
    bash scripts/experiments/eight_gpus.sh --dry-run [JOB ...]    their commands, and the memory plans for GPU_GB
    bash scripts/experiments/eight_gpus.sh --list                 the jobs, and which are done
    bash scripts/experiments/eight_gpus.sh --results DIR          the table, in Markdown and JSON

A job is `sft4/2` (on two GPUs) or `sft4` (on every number). One runs at a time, so that timings are its own.
Called again, it goes on with what is not done; what failed or was stopped begins again. A job that was done with
other knobs or another model is refused.

Environment: SHAPE (qwen3-4b or olmo3-7b: a model with random weights, which the command makes), or MODEL_PATH (a
checkpoint folder instead); OUTPUT (default: outputs/eight_gpus/<shape>); GPUS (e.g. 0,1,2,3; default: all visible
ones); SIZES (numbers of GPUs; default: 1,2,4,8 as far as there are that many); MINUTES (stops everything after so
many); GPU_GB (80, for --dry-run); PLAN (default: experiments/eight_gpus/plan.yaml). The log of a job is
OUTPUT/<job>/job.log.
"""

import math
import os
import sys
import time
from pathlib import Path

from experiments.arguments import let_the_plan_decide, number, refuse_options
from experiments.eight_gpus.data import write_problems, write_tuples
from experiments.eight_gpus.figures import WATCHED
from experiments.eight_gpus.models import SHAPES, save_model
from experiments.eight_gpus.plan import PLAN, SCRIPTS, Job, Layout, Plan, choose, command, load_plan
from experiments.eight_gpus.processes import last_line
from experiments.eight_gpus.results import FAILURE, write_results
from experiments.eight_gpus.watch import MemoryWatch
from experiments.one_gpu.plan import REPOSITORY
from experiments.one_gpu.reuse import check_jobs, check_model
from experiments.one_gpu.run import stop_on_sigterm, visible_gpus
from experiments.one_gpu.running import keep_aside, launch, record_of
from srt.common.entry_point import run_entry_point
from srt.common.errors import UserError
from srt.common.files import read_json, read_jsonl, write_json
from srt.common.name_values import show_help

SIZES = (1, 2, 4, 8)
MADE = "made.json"  # of which plan's data the tuples are
POLL_SECONDS = 1.0


def run_jobs(plan: Plan, wanted: list[str], layout: Layout, gpus: list[str], deadline: float) -> bool:
    """One after the other; True when all are done. A job that fails or takes too long does not end the others."""
    for name in wanted:
        job = plan.jobs[name]
        if record_of(job, layout):
            continue
        if job.of and not record_of(plan.jobs[job.of], layout):
            _fail(job, layout, f"needs {job.of}, which is not done")
            continue
        if time.monotonic() >= deadline:
            print("time is up; the same command continues")
            break
        run_job(job, layout, plan.data, gpus[: job.gpus], deadline)
    return all(record_of(plan.jobs[name], layout) for name in wanted)


def run_job(job: Job, layout: Layout, data: dict[str, int], gpus: list[str], deadline: float) -> None:
    """Until it ends, its own time limit or the deadline. Leaves its record, or why there is none."""
    folder = layout.folder(job.name)
    keep_aside(folder)  # it begins again: half of a timing is none
    folder.mkdir(parents=True, exist_ok=True)
    arguments, env = command(job, layout, data)
    watch, limit = MemoryWatch(), time.monotonic() + 60 * job.minutes
    running = launch(job, layout, gpus, arguments, env)
    try:
        while not running.ended and time.monotonic() < min(limit, deadline):
            watch.sample()
            time.sleep(POLL_SECONDS)
    except BaseException:  # Ctrl-C, or SIGTERM
        running.stop()
        raise
    write_json(folder / WATCHED, watch.figures())
    if running.ended:
        if not running.succeeded():
            _fail(job, layout, last_line(folder / "job.log"))
        return
    running.stop()
    _fail(job, layout, f"not done within {job.minutes:g} minutes" if time.monotonic() >= limit else "time was up")


def _fail(job: Job, layout: Layout, reason: str) -> None:
    folder = layout.folder(job.name)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FAILURE, {"job": job.name, "failed": reason})
    print(f"failed: {job.name}: {reason}", flush=True)


def prepare(layout: Layout, plan: Plan, shape: str | None, largest: int) -> None:
    """Model, problems and tuples, unless they are there. `shape`: None for a model of the user's."""
    if shape and not (layout.model / "config.json").is_file():
        print(f"making a model of the shape of {shape} with random weights", flush=True)
        save_model(shape, layout.model)
    check_model(layout.output, str(layout.model))
    made = layout.tuples / MADE
    if not made.is_file() or read_json(made) != plan.data:
        write_tuples(
            layout.tuples, plan.data["tuples"] // 2, plan.data["median_tokens"], plan.data["longest_tuple"]
        )
        write_json(made, plan.data)
    needed = max(plan.data["problems_per_gpu"] * largest, 3 * 128)
    if not layout.problems.is_file() or len(read_jsonl(layout.problems)) < needed:
        write_problems(layout.problems, needed)


def show_state(plan: Plan, layout: Layout) -> None:
    for job in plan.jobs.values():
        record = record_of(job, layout)
        state = f"done, {record['seconds']:.0f} s" if record else "open"
        print(f"{job.name:<14} at most {job.minutes:g} min   {state}")


def chosen_sizes(gpus: list[str]) -> list[int]:
    """SIZES, or 1, 2, 4 and 8 as far as there are GPUs; raises UserError for more than there are."""
    given = os.environ.get("SIZES")
    try:
        sizes = sorted({int(size) for size in given.split(",")}) if given else [n for n in SIZES if n <= len(gpus)]
    except ValueError:
        raise UserError(f"SIZES={given}: expected numbers of GPUs, such as 1,2,4") from None
    if gpus != [""] and sizes[-1] > len(gpus):
        raise UserError(f"SIZES={given}: {len(gpus)} GPU(s) are visible")
    return sizes


def main(arguments: list[str]) -> None:
    show_help(arguments, __doc__)
    dry_run = "--dry-run" in arguments
    names = [argument for argument in arguments if argument != "--dry-run"]
    gpus = [str(index) for index in range(64)] if dry_run else visible_gpus()
    shape: str | None = os.environ.get("SHAPE", "qwen3-4b")
    if shape not in SHAPES:
        raise UserError(f"SHAPE={shape}: expected one of {', '.join(SHAPES)}")
    path = os.environ.get("MODEL_PATH")
    name = Path(path).name if path else shape
    output = Path(os.environ.get("OUTPUT", REPOSITORY / "outputs" / "eight_gpus" / name)).expanduser().resolve()
    layout = Layout(output, Path(path).expanduser().resolve() if path else output / shape)
    shape = None if path else shape
    sizes = chosen_sizes(gpus)
    plan = load_plan(sizes, Path(os.environ.get("PLAN", PLAN)))
    match names:
        case ["--list"]:
            show_state(plan, layout)
            return
        case ["--results", folder]:
            check_jobs(plan.jobs.values(), layout, timed=True)
            write_results(plan.jobs, layout, Path(folder))
            return
    refuse_options(names, __doc__)
    wanted = choose(names, plan.jobs)
    minutes = number("MINUTES", math.inf)
    if dry_run:
        from experiments.eight_gpus.dry_run import show

        show(plan, wanted, layout, shape, number("GPU_GB", 80))
        return
    check_jobs(plan.jobs.values(), layout, timed=True)
    let_the_plan_decide(SCRIPTS.values(), ())
    stop_on_sigterm()
    prepare(layout, plan, shape, sizes[-1])
    deadline = time.monotonic() + 60 * minutes
    complete = run_jobs(plan, wanted, layout, gpus, deadline)
    write_results(plan.jobs, layout, layout.output)
    if not complete:
        sys.exit(1)


if __name__ == "__main__":
    run_entry_point(main)
