"""A markdown table of several quickstarts, from their summary.json files.

python -m quickstart.seed_table quickstart_output/seed*/summary.json
"""

import json
import sys
from pathlib import Path

HEADINGS = ("seed", "base", "after stage 1", "SRT", "SD-Zero", "gain", "tokens: base", "SRT", "SD-Zero")


def seed_table(summaries: dict[str, dict]) -> str:
    """`summaries`: seed -> summary.json. avg@8 in percent, gain over the base model in percentage points."""
    lines = [row(HEADINGS), row(["---"] * len(HEADINGS))]
    for seed, stages in summaries.items():
        accuracy = {stage: 100 * metrics["avg_at_8"] for stage, metrics in stages.items()}
        tokens = {stage: metrics["mean_response_tokens"] for stage, metrics in stages.items()}
        cells = [seed, *(f"{accuracy[stage]:.1f}" for stage in ("base", "stage1", "srt", "sd_zero"))]
        cells.append(f"{accuracy['sd_zero'] - accuracy['base']:+.1f}")
        cells += [f"{tokens[stage]:.0f}" for stage in ("base", "srt", "sd_zero")]
        lines.append(row(cells))
    return "\n".join(lines)


def row(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    paths = [Path(argument) for argument in sys.argv[1:]]
    print(seed_table({path.parent.name.removeprefix("seed"): json.loads(path.read_text()) for path in paths}))
