"""Problems to sample and tuples to train on, of chosen number and length. Nothing in them is to be learned."""

from pathlib import Path

import numpy as np

from srt.collect.split import metadata_path
from srt.common.files import write_json, write_jsonl
from srt.contract.phrases import PHRASE_SETS

LINE, LINE_TOKENS = "\nA 1 + 2 = 3", 6  # in the quickstart's tokenizer
PHRASES = PHRASE_SETS["qwen"]
SIGMA = 0.5  # of the logarithm of a tuple's length
PREFIX = "srt"


def write_problems(path: Path, count: int) -> None:
    """Problems of the quickstart's form, each with another text."""
    digits = [f"{index:05d}" for index in range(count)]
    lines = [
        {"id": f"p{index}", "problem": f"x = {d[0]} [A] + {d[1]} [B] * {d[2]} [C] + {d[3]} [D] - {d[4]}",
         "answer": str(index % 10)}
        for index, d in enumerate(digits)
    ]  # fmt: skip
    write_jsonl(path, lines)


def write_tuples(folder: Path, count: int, median: int, longest: int) -> None:
    """Stage files of `count` tuples each, whose lengths are log-normal with this median, in tokens."""
    rng = np.random.default_rng(0)
    for stage in (1, 2):
        lengths = np.clip(median * np.exp(SIGMA * rng.standard_normal(count)), 4 * LINE_TOKENS, longest - 100)
        records = [_tuple(index, int(length) // LINE_TOKENS) for index, length in enumerate(lengths)]
        path = folder / f"{PREFIX}_stage{stage}.json"
        write_json(path, records)
        write_json(metadata_path(path), {"identity": {"control_phrases": PHRASES.as_dict(), "mode": "math"}})


def _tuple(index: int, lines: int) -> dict[str, str]:
    """Both responses have half of the lines."""
    half = LINE * max(lines // 2, 1)
    return {"id": f"p{index}", "x": f"x = {index}", "y_init": half, "p_r": PHRASES.wrong, "y_revised": half}
