"""plan.yaml -> the jobs of the experiment, with what each needs and the command that runs it."""

import math
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path

from experiments.arguments import known_knobs, refuse_unknown_knobs
from experiments.one_gpu.plan_file import read_plan
from experiments.one_gpu.problems import SETS
from experiments.one_gpu.trl_settings import KINDS, TrlSettings
from srt.common.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
PLAN = Path(__file__).with_name("plan.yaml")
BASE = "base"
EVALUATE = "evaluate"
SCRIPTS = {
    "collect": "run_srt_data",
    "select": "run_srt_data",
    "sft": "sft",
    "distill": "distill",
    "localize": "localize",
    EVALUATE: EVALUATE,
}
SCRIPT_KNOBS = {"select": "collect"}  # whose knobs a job shares
RUNS = (*SCRIPTS, "baseline", "trl")
KNOBS = {"all", *(SCRIPT_KNOBS.get(run, run) for run in RUNS)}
PROBLEMS = (*SETS, "quickstart")  # which a plan can be about (problems.py, quickstart_world.py)
WORLD = "world"  # the folder of the quickstart's world
KEYS = {"run", "kind", "data", "from", "env", "gpus"}
BASELINE_FILE = "responses.jsonl"
MODULES = {"baseline": "experiments.one_gpu.baseline_data", "trl": "experiments.one_gpu.trl_baselines"}
NEEDED = {
    "sft": {"data"},
    "distill": {"from"},
    "localize": {"from"},
    "baseline": {"kind"},
    "trl": {"kind", "data"},
}
SETTINGS = {  # what the experiment's own modules take of a job's env, in small letters
    "baseline": ("RESPONSES",),
    "trl": [option.name.upper() for option in fields(TrlSettings) if option.default is not MISSING],
}


@dataclass(frozen=True)
class Job:
    """One command. `data` and `source` name the jobs whose tuples and model it starts from.

    `gpus`: the most that it takes; below 1 it leaves the rest of its GPU to others of its kind.
    """

    name: str
    run: str
    kind: str = ""
    data: str = ""
    source: str = ""
    gpus: float = 1
    env: dict[str, str] = field(default_factory=dict)

    @property
    def needs(self) -> list[str]:
        """The jobs that must be done before this one."""
        shared = ["collect"] if self.run in ("select", "baseline") else []
        return [name for name in (*shared, self.data, self.source) if name not in ("", BASE, "problems")]

    @property
    def inputs(self) -> dict[str, str]:
        """What decides about its result beside its knobs."""
        found = {"run": self.run, "kind": self.kind, "data": self.data, "from": self.source}
        return {key: value for key, value in found.items() if value}

    @property
    def count(self) -> int:
        """The most GPUs that it takes."""
        return math.ceil(self.gpus)

    @property
    def share(self) -> float:
        """Of each of its GPUs."""
        return min(self.gpus, 1.0)

    @property
    def continues(self) -> bool:
        """Whether what was done before a kill counts: a rival begins again, since TRL is told to save no state."""
        return self.run not in MODULES

    @property
    def makes_model(self) -> bool:
        return self.run in ("sft", "distill", "trl")


@dataclass(frozen=True)
class Layout:
    """Where the files of the experiment are."""

    output: Path
    model: str  # the base model

    def folder(self, job: str) -> Path:
        return self.output / job

    def problems(self, split: str) -> Path:
        return self.output / "problems" / f"{split}.jsonl"

    def checkpoint(self, job: Job | None) -> str:
        """The model that a job makes; the base model for None."""
        if job is None:
            return self.model
        return str(self.folder(job.name) / {"sft": "stage2", "distill": "student", "trl": "model"}[job.run])


def problems_of(path: Path = PLAN) -> str:
    """Which problems a plan is about, one of PROBLEMS."""
    problems = read_plan(path).get("problems", PROBLEMS[0])
    if problems not in PROBLEMS:
        raise UserError(f"{path}: problems is {problems}, expected one of {', '.join(PROBLEMS)}")
    return problems


def load_jobs(path: Path = PLAN, seed: str | None = None) -> dict[str, Job]:
    """The jobs in their order, each model followed by its evaluation. Raises UserError for a broken plan.

    `seed`: SEED of the jobs that have none of their own.
    """
    plan = read_plan(path)
    knobs = {"all": {}} | plan["knobs"]
    if unknown := set(knobs) - KNOBS:
        known = ", ".join(sorted(KNOBS))
        raise UserError(f"{path}: knobs of {', '.join(sorted(unknown))}, expected those of {known}")
    if seed is not None:
        knobs["all"] = knobs["all"] | {"SEED": seed}
    jobs: dict[str, Job] = {}

    def add(name: str, run: str, **options: object) -> None:
        own = options.pop("env", {})
        shared = knobs["all"] | knobs.get(SCRIPT_KNOBS.get(run, run), {})
        env = {key: str(value) for key, value in (shared | own).items()}  # pyright: ignore[reportOperatorIssue]
        if run == "baseline":
            options.setdefault("gpus", 0)
        jobs[name] = Job(name, run, env=env, **options)  # pyright: ignore[reportArgumentType]

    add(f"{EVALUATE}/{BASE}", EVALUATE, source=BASE)
    for name, entry in plan["jobs"].items():
        if unknown := set(entry) - KEYS or ({"run"} | NEEDED.get(entry.get("run"), set())) - set(entry):
            raise UserError(f"{path}, job {name}: unknown or missing key {', '.join(sorted(unknown))}")
        if entry["run"] not in RUNS:
            raise UserError(f"{path}, job {name}: run is {entry['run']}, expected one of {', '.join(RUNS)}")
        options = {"source" if key == "from" else key: value for key, value in entry.items() if key != "run"}
        add(name, entry["run"], **options)
        if jobs[name].makes_model:
            add(f"{EVALUATE}/{name}", EVALUATE, source=name)
    for job in jobs.values():
        _check(job, jobs, set(knobs["all"]), path)
    return jobs


def _check(job: Job, jobs: dict[str, Job], shared: set[str], path: Path) -> None:
    """Raises UserError for what is no kind, job, model or knob. `shared`: may concern only some of the scripts."""
    if job.run == "trl" and job.kind not in KINDS:
        raise UserError(f"{path}, job {job.name}: kind is {job.kind}, expected one of {', '.join(KINDS)}")
    for need in job.needs:
        if need not in jobs:
            raise UserError(f"{path}, job {job.name}: it needs {need}, which is no job")
    if job.source not in ("", BASE) and not jobs[job.source].makes_model:
        raise UserError(f"{path}, job {job.name}: it starts from {job.source}, which makes no model")
    known = known_knobs(SCRIPTS[job.run]) if job.run in SCRIPTS else set(SETTINGS[job.run])
    refuse_unknown_knobs(path, job.name, set(job.env) - shared, known)
    before = pending = set(job.needs)
    while pending := {need for name in pending for need in jobs[name].needs if need in jobs} - before:
        before = before | pending
    if job.name in before:
        raise UserError(f"{path}, job {job.name}: it needs itself, by way of {', '.join(job.needs)}")


def with_ancestors(names: Iterable[str], jobs: dict[str, Job]) -> list[str]:
    """The jobs of that name, their evaluations, and all that they need, in the order of the plan."""
    wanted: set[str] = set()
    pending = []
    for name in names:
        found = [candidate for candidate in (name, f"{EVALUATE}/{name}") if candidate in jobs]
        if not found:
            raise UserError(f"no job {name}; there are {', '.join(jobs)}")
        pending += found
    while pending:
        name = pending.pop()
        if name not in wanted:
            wanted.add(name)
            pending += jobs[name].needs
    return [name for name in jobs if name in wanted]


def command(job: Job, jobs: dict[str, Job], layout: Layout, python: str) -> tuple[list[str], dict[str, str]]:
    """The command of a job, and its environment variables beyond those that are set already."""
    folder = layout.folder(job.name)
    env = dict(job.env)
    if job.run in MODULES:
        options = {"kind": job.kind, "data": data_path(job, layout), "output": folder}
        options |= {"model": layout.model} if job.run == "trl" else {}
        options |= {name.lower(): env[name] for name in SETTINGS[job.run] if name in env}
        return [python, "-m", MODULES[job.run], *(f"{name}={value}" for name, value in options.items())], env
    if job.run in ("collect", "select"):
        collection = layout.folder("collect") / "samples"
        env |= {"MODEL_PATH": layout.model, "DATASET": str(layout.problems("train"))}
        env |= {"OUTPUT_DIR": str(collection), "TRAIN_DATA_DIR": str(folder), "DATA_PREFIX": "srt"}
    elif job.run == "sft":
        env |= {"BASE_MODEL": layout.model, "TRAIN_DATA_DIR": str(layout.folder(job.data)), "DATA_PREFIX": "srt"}
        env |= {"OUTPUT_DIR": str(folder)}
    elif job.run == "distill":
        env |= {"STUDENT_MODEL": layout.checkpoint(jobs.get(job.source)), "OUTPUT_DIR": str(folder)}
        env |= {
            "TRAIN_DATASET": str(layout.problems("distill")),
            "VAL_DATASET": str(layout.problems("validation")),
        }
        if float(env.get("SRT_REPLAY", 0)):
            env["SRT_REPLAY_DATA"] = str(layout.folder(jobs[job.source].data) / "srt_stage2.json")
    else:
        model = "STUDENT_MODEL" if job.run == "localize" else "MODEL_PATH"
        env |= {model: layout.checkpoint(jobs.get(job.source)), "OUTPUT_DIR": str(folder)}
        env |= {"DATASET": str(layout.problems("test"))}
    return ["bash", str(REPOSITORY / "scripts" / f"{SCRIPTS[job.run]}.sh")], env


def data_path(job: Job, layout: Layout) -> Path:
    """What a module of the experiment reads: the samples of Phase 1, problems, or the data of another job."""
    if job.run == "baseline":
        return layout.folder("collect") / "samples" / "attempts.jsonl"
    return layout.problems("train") if job.data == "problems" else layout.folder(job.data) / BASELINE_FILE
