"""--dry-run: every job with its command, and the memory plans of the scripts; nothing is started or kept."""

import contextlib
import io
import os
import shlex
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from experiments.eight_gpus.data import write_problems, write_tuples
from experiments.eight_gpus.models import save_model
from experiments.eight_gpus.plan import DISTILLS, Job, Layout, Plan, command
from opsd.distill import distill
from srt.collect.run import collect
from srt.common.dry_run import DRY_RUN
from srt.common.errors import UserError
from srt.sft.run import train

PLANNED = ("memory plan of", "  ", "memory of", "KV cache", "a sequence is not split")  # lines of a memory plan


def show(plan: Plan, wanted: list[str], layout: Layout, shape: str | None, gpu_gigabytes: float) -> None:
    """`shape`: of a model with random weights; None: that of the layout."""
    for name in wanted:
        job = plan.jobs[name]
        arguments, env = command(job, layout, plan.data)
        knobs = " ".join(f"{key}={shlex.quote(value)}" for key, value in env.items())
        print(f"\n{name}: at most {job.minutes:g} minutes\n  {knobs} {shlex.join(arguments)}")
    with tempfile.TemporaryDirectory() as folder:
        small = Layout(Path(folder), Path(folder) / "model" if shape else layout.model)
        if shape:
            save_model(shape, small.model, weights=False)
        write_problems(small.problems, 128)
        write_tuples(small.tuples, 2 * 32, plan.data["median_tokens"], plan.data["longest_tuple"])
        shown: set[str] = set()
        for name in wanted:
            for text in _memory(plan.jobs[name], small, plan.data, gpu_gigabytes):
                if text not in shown:
                    print(f"\n{name}\n{text}")
                shown.add(text)


def _memory(job: Job, layout: Layout, data: dict[str, int], gpu_gigabytes: float) -> Iterator[str]:
    """The memory plan of the job's script, as its own dry run prints it, or the sentence with which that ends."""
    runs: dict[str, Callable[[list[str]], None]] = {"collect": collect, "sft": train}
    run = distill if job.run in DISTILLS else runs.get(job.run)
    if run is None:
        return
    nodes = "2x" if job.run == "nodes" else ""
    gpus = job.gpus // (2 if nodes else 1)
    _, env = command(job, layout, data)
    printed = io.StringIO()
    with _environment(env), contextlib.redirect_stdout(printed):
        try:
            run([DRY_RUN, f"plan_for={nodes}{gpus}x{gpu_gigabytes:g}"])
        except UserError as error:
            print(f"memory of {job.name}: no plan: {error}")
    lines = printed.getvalue().splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith(("memory plan of", "memory of")))
    kept = [line for line in lines[start:] if line.startswith(PLANNED)]
    yield "\n".join(kept)


@contextlib.contextmanager
def _environment(env: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(env)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
