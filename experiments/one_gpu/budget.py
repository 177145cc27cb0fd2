"""What it took to make a model: samples drawn, tokens generated, tokens trained on, GPU seconds.

A rival that never reads the collection's revisions (a `baseline` job) is charged its responses alone, and of its
GPU seconds the share that these have of the tokens.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from experiments.one_gpu.plan import BASE, BASELINE_FILE, Job, Layout
from experiments.one_gpu.running import record_of
from experiments.one_gpu.trl_settings import SETTINGS_FILE
from srt.common.files import read_json, read_jsonl
from srt.contract.records import unpack_ids

STAGES = ("stage1", "stage2")
KINDS = ("response", "revision")  # of a collection's samples


@dataclass(frozen=True)
class Budget:
    """`samples`: responses and revisions. `trained_tokens`: each time they were trained on; SRT's are of whole
    tuples with their prompts, all others of responses alone, so that the two cannot be compared."""

    samples: int = 0
    generated_tokens: int = 0
    trained_tokens: int = 0
    gpu_seconds: float = 0.0

    def __add__(self, other: "Budget") -> "Budget":
        return Budget(*(mine + theirs for mine, theirs in zip(self.values(), other.values(), strict=True)))

    def values(self) -> tuple:
        return tuple(self.as_dict().values())

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def budget_of(name: str, jobs: dict[str, Job], layout: Layout) -> Budget:
    """Of a model with everything that it was made from; nothing for the base model."""
    if name == BASE:
        return Budget()
    total, pending, seen, of_responses = Budget(), [name], set(), set()
    while pending:
        job = jobs[pending.pop()]
        if job.name not in seen:
            seen.add(job.name)
            (of_responses.update if job.run == "baseline" else pending.extend)(job.needs)
            total += _own_budget(job, layout)
    for shared in of_responses - seen:
        total += _of_responses(jobs[shared], layout)
    return total


def _own_budget(job: Job, layout: Layout) -> Budget:
    folder = layout.folder(job.name)
    counts = {
        "collect": _collected,
        "sft": _fine_tuned,
        "distill": _distilled,
        "trl": lambda path: _trl(job, path, layout),
    }.get(job.run)
    return Budget(gpu_seconds=_gpu_seconds(job, layout)) + (counts(folder) if counts else Budget())


def _gpu_seconds(job: Job, layout: Layout) -> float:
    record = record_of(job, layout)
    return record["seconds"] * record["gpus"] if record else 0.0


def _of_responses(collect: Job, layout: Layout) -> Budget:
    """A collection without its revisions."""
    everything, responses = (_collected(layout.folder(collect.name), kinds) for kinds in (KINDS, KINDS[:1]))
    share = responses.generated_tokens / max(everything.generated_tokens, 1)
    return responses + Budget(gpu_seconds=share * _gpu_seconds(collect, layout))


def _collected(folder: Path, kinds: tuple[str, ...] = KINDS) -> Budget:
    samples = tokens = 0
    for line in read_jsonl(folder / "samples" / "attempts.jsonl"):
        if line["kind"] in kinds:
            samples += 1
            tokens += line["y_init_tokens"] if line["kind"] == "response" else line["y_revised_tokens"]
    return Budget(samples, tokens)


def _fine_tuned(folder: Path) -> Budget:
    """Tokens of whole tuples, as the Trainer's log counts them."""
    tokens = 0
    for stage in STAGES:
        path = folder / stage / "training_log.json"
        if path.is_file():
            tokens += max((entry.get("num_tokens", 0) for entry in read_json(path)), default=0)
    return Budget(trained_tokens=int(tokens))


def _distilled(folder: Path) -> Budget:
    steps = read_jsonl(folder / "metrics.jsonl")
    samples = sum(step["rollouts"] for step in steps)
    generated = round(sum(step["rollouts"] * step["response_tokens"] for step in steps))
    return Budget(samples, generated, sum(step["trained_tokens"] for step in steps))


def _trl(job: Job, folder: Path, layout: Layout) -> Budget:
    log = read_json(folder / "training_log.json")
    if job.kind == "sft":
        responses = read_jsonl(layout.folder(job.data) / BASELINE_FILE)
        epochs = max((entry.get("epoch", 0) for entry in log), default=0)
        return Budget(trained_tokens=round(epochs * sum(len(unpack_ids(line["y_ids"])) for line in responses)))
    steps = [entry for entry in log if "completions/mean_length" in entry]
    samples = read_json(folder / SETTINGS_FILE)["samples_per_step"]
    tokens = round(samples * sum(entry["completions/mean_length"] for entry in steps))
    return Budget(samples * len(steps), tokens, tokens)
