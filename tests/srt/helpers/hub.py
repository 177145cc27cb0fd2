"""A Hugging Face hub that answers without a network: rows of the default evaluation sets, as the hub has them."""

import gzip
import json
from pathlib import Path

import datasets

HUMANEVAL = Path(__file__).parents[1] / "data" / "humaneval" / "HumanEval.jsonl.gz"
AIME = {
    "id": 60,
    "problem": "Every morning Aya goes for a walk. How many minutes does it take?",
    "solution": "It takes $\\boxed{204}$ minutes.",
    "answer": "204",
    "url": "https://artofproblemsolving.com/wiki/index.php/2024_AIME_I_Problems/Problem_1",
    "year": "2024",
}


def humaneval(count: int = 3) -> list[dict]:
    """The first `count` problems, with the fields that the hub has."""
    with gzip.open(HUMANEVAL, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file][:count]


def serve(monkeypatch, folder: Path, *, commit: str | None = None) -> list[tuple[str, str | None, str]]:
    """Make `load_dataset` serve the evaluation sets, one split each; returns the list of what it was asked for.

    `commit`: the revision that the hub resolves, which shows in the path of the cache.
    """
    splits = {("HuggingFaceH4/aime_2024", "train"): [AIME], ("openai/openai_humaneval", "test"): humaneval()}
    asked: list[tuple[str, str | None, str]] = []

    def load_dataset(name: str, subset: str | None = None, *, split: str, revision: str | None = None):
        asked.append((name, subset, split))
        if (name, split) not in splits:
            raise ValueError(f'Unknown split "{split}".')
        file = folder / name.replace("/", "___") / "default" / "0.0.0" / (commit or "0123456789abcdef") / "x.arrow"
        datasets.Dataset.from_list(splits[name, split]).save_to_disk(str(file.parent))
        (arrow,) = file.parent.glob("*.arrow")
        return datasets.Dataset.from_file(str(arrow))

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    return asked
