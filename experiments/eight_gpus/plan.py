"""plan.yaml -> the jobs on each number of GPUs, and the command of each."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from experiments.arguments import known_knobs, read_yaml_mapping, refuse_unknown_knobs
from experiments.eight_gpus.data import PREFIX
from experiments.one_gpu.plan import REPOSITORY
from srt.common.errors import UserError

PLAN = Path(__file__).with_name("plan.yaml")
SCRIPTS = {"collect": "run_srt_data", "sft": "sft", "distill": "distill"}
MODULES = {
    "kill": "experiments.eight_gpus.kill",
    "nodes": "experiments.eight_gpus.nodes",
    "export": "experiments.eight_gpus.load_export",
}
DISTILLS = ("distill", "kill", "nodes")  # with the knobs of distill.sh
KEYS = {"run", "env", "minutes", "largest", "needs_gpus", "of"}
DATA_KEYS = {"problems_per_gpu", "tuples", "median_tokens", "longest_tuple"}


@dataclass(frozen=True)
class Job:
    """One command on `gpus` GPUs, ended after `minutes`. `of`: whose student it reads. `data`: of its plan."""

    name: str
    run: str
    gpus: int
    minutes: float
    env: dict[str, str] = field(default_factory=dict)
    of: str | None = None
    data: dict[str, int] = field(default_factory=dict)

    @property
    def inputs(self) -> dict[str, str]:
        """What decides about its result beside its knobs."""
        return {"run": self.run} | {key: str(value) for key, value in self.data.items()}


@dataclass(frozen=True)
class Layout:
    """Where everything is. `model`: a checkpoint folder."""

    output: Path
    model: Path

    def folder(self, job: str) -> Path:
        return self.output / job

    @property
    def problems(self) -> Path:
        return self.output / "data" / "problems.jsonl"

    @property
    def tuples(self) -> Path:
        return self.output / "data"


@dataclass(frozen=True)
class Plan:
    """`jobs`: by name, in their order. `data`: how much of it, and how long."""

    jobs: dict[str, Job]
    data: dict[str, int]


def load_plan(sizes: list[int], path: Path = PLAN) -> Plan:
    """The jobs on these numbers of GPUs. Raises UserError for a broken plan."""
    content = read_yaml_mapping(path)
    if set(content.get("data", ())) != DATA_KEYS:
        raise UserError(f"{path}: data must have {', '.join(sorted(DATA_KEYS))}")
    jobs: dict[str, Job] = {}
    knobs = content.get("knobs", {})
    for name, entry in content.get("jobs", {}).items():
        if not isinstance(entry, dict):
            raise UserError(f"{path}, job {name}: expected a mapping such as {{run: sft, minutes: 20}}")
        if unknown := set(entry) - KEYS or {"run", "minutes"} - set(entry):
            raise UserError(f"{path}, job {name}: unknown or missing key {', '.join(sorted(unknown))}")
        run = entry["run"]
        if run not in (*SCRIPTS, *MODULES):
            raise UserError(f"{path}, job {name}: run is {run}, expected one of {', '.join((*SCRIPTS, *MODULES))}")
        own = knobs.get("distill" if run in DISTILLS else run, {}) | entry.get("env", {})
        refuse_unknown_knobs(path, name, own, _known_knobs(run))
        env = knobs.get("all", {}) | own
        for gpus in sizes[-1:] if entry.get("largest") else sizes:
            if gpus >= entry.get("needs_gpus", 1):
                of = f"{entry['of']}/{gpus}" if "of" in entry else None
                texts = {key: str(value) for key, value in env.items()}
                jobs[f"{name}/{gpus}"] = Job(
                    f"{name}/{gpus}", run, gpus, float(entry["minutes"]), texts, of, content["data"]
                )
    for job in jobs.values():
        if job.of and job.of not in jobs:
            raise UserError(f"{path}, job {job.name}: it needs {job.of}, which is no job")
    return Plan(jobs, content["data"])


def _known_knobs(run: str) -> set[str]:
    if run in DISTILLS:
        return known_knobs(SCRIPTS["distill"]) | {"KILL_DELAY"}
    return known_knobs(SCRIPTS[run]) if run in SCRIPTS else {"SAMPLER"}


def choose(arguments: Iterable[str], jobs: dict[str, Job]) -> list[str]:
    """`sft4` and `sft4/2` choose jobs, `-sft4` and `-sft4/2` leave them out; with none chosen, all are.

    What a chosen job needs comes with it. Raises UserError for a name that is no job.
    """
    chosen, left_out = set(), set()
    for argument in arguments:
        name = argument.removeprefix("-")
        found = {job for job in jobs if name in (job, job.split("/")[0])}
        if not found:
            raise UserError(f"no job {name}; there are {', '.join(jobs)}")
        (left_out if argument.startswith("-") else chosen).update(found)
    wanted = (chosen or set(jobs)) - left_out
    wanted |= {job.of for name in wanted if (job := jobs[name]).of}
    return [name for name in jobs if name in wanted]


def command(job: Job, layout: Layout, data: dict[str, int]) -> tuple[list[str], dict[str, str]]:
    """The command of a job, and its environment variables beyond those that are set already."""
    folder = layout.folder(job.name)
    env = dict(job.env)
    if job.run == "collect":
        env |= {"MODEL_PATH": str(layout.model), "DATASET": str(layout.problems), "DATA_PREFIX": PREFIX}
        env |= {"OUTPUT_DIR": str(folder / "samples"), "TRAIN_DATA_DIR": str(folder)}
        env |= {"MAX_SAMPLES": str(data["problems_per_gpu"] * job.gpus), "DATA_PARALLEL_SIZE": str(job.gpus)}
    elif job.run == "sft":
        env |= {"BASE_MODEL": str(layout.model), "TRAIN_DATA_DIR": str(layout.tuples), "DATA_PREFIX": PREFIX}
        env |= {"OUTPUT_DIR": str(folder / "srt"), "NUM_PROCESSES": str(job.gpus)}
    elif job.run in DISTILLS:
        env |= {"STUDENT_MODEL": str(layout.model), "TRAIN_DATASET": str(layout.problems)}
        env |= {"OUTPUT_DIR": str(folder / "run")}
    elif job.of:
        env |= {"MODEL": str(layout.folder(job.of) / "run" / "student")}
    if job.run in MODULES:
        return [sys.executable, "-m", MODULES[job.run]], env
    script = ["bash", str(REPOSITORY / "scripts" / f"{SCRIPTS[job.run]}.sh")]
    if job.run == "collect":  # random weights give no tuple to split, which is an error once everything is sampled
        return ["bash", "-c", '"$@" || [ -f "$OUTPUT_DIR/d_revision.json" ]', "collect", *script], env
    return script, env
