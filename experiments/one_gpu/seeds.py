"""Results of several seeds of the quickstart's worlds -> a table of each world, a plot, and the raw figures.

    python -m experiments.one_gpu.seeds FOLDER results.json [results.json ...]

Writes FOLDER/quickstart_rivals.json, .md and .png. Cells are means over the seeds; avg@k shows each seed, too.
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from experiments.one_gpu.tables import mean, percent, points
from srt.common.entry_point import run_entry_point
from srt.common.errors import UserError
from srt.common.files import read_json
from srt.common.name_values import show_help
from srt.contract.metrics import AVG_AT_K, ENTROPY, GREEDY_ACCURACY, MAJORITY_AT, MEAN_RESPONSE_TOKENS, PASS_AT, at

Json = dict[str, Any]


def table(of_seeds: list[Json]) -> str:
    """A Markdown table of one world: `of_seeds` are the results of its seeds, which have the same rows."""
    k = of_seeds[0]["k"]
    seeds = ", ".join(str(found["world"]["seed"]) for found in of_seeds)
    heading = (
        f"| | avg@{k} | seeds {seeds} | to base | greedy | majority@{k} | pass@{k} "
        f"| avg@{k} where base's majority is right | where it is wrong | tokens | nats/token | samples |"
    )
    rows = zip(*(found["rows"] for found in of_seeds), strict=True)
    return "\n".join([heading, "|" + "---|" * 12, *(_line(row, k) for row in rows)]) + "\n"


def _line(of_seeds: tuple[Json, ...], k: int) -> str:
    """One method: its row in the results of each seed."""

    def metric(name: str) -> list[float]:
        return [row["tasks"]["metrics"][name]["value"] for row in of_seeds]

    def majority(part: str) -> list[float]:
        return [row["against_majority"][part]["accuracy"] for row in of_seeds]

    to_base = [row["tasks"]["to_base"][AVG_AT_K]["difference"] for row in of_seeds if "to_base" in row["tasks"]]
    cells = [
        of_seeds[0]["name"],
        percent(mean(metric(AVG_AT_K))),
        " / ".join(map(percent, metric(AVG_AT_K))),
        points(mean(to_base)) if to_base else "",
        *(percent(mean(metric(name))) for name in (GREEDY_ACCURACY, at(MAJORITY_AT, k), at(PASS_AT, k))),
        *(percent(mean(majority(part))) for part in ("majority_right", "majority_wrong")),
        f"{mean(metric(MEAN_RESPONSE_TOKENS)):.0f}",
        f"{mean(metric(ENTROPY)):.3f}",
        f"{mean([row['budget']['samples'] for row in of_seeds]):,.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def raw_figures(worlds: dict[float, list[Json]]) -> str:
    """All results as JSON: a line for each method, with its knobs, and one for each row; floats have four digits.

    Raises UserError where the knobs of a method differ by more than the seed.
    """
    knobs: dict[str, Json] = {}
    rows = []
    for found in (found for of_seeds in worlds.values() for found in of_seeds):
        shared = {key: value for key, value in found.items() if key != "rows"}
        for row in found["rows"]:
            env = {name: value for name, value in row["env"].items() if name != "SEED"}
            if knobs.setdefault(row["name"], env) != env:
                raise UserError(f"{row['name']}: its knobs are not the same in all results")
            rows.append(shared | {key: _rounded(value) for key, value in row.items() if key != "env"})
    methods = [{"name": name, "env": env} for name, env in knobs.items()]
    return f'{{"methods": [\n{_lines(methods)}\n], "rows": [\n{_lines(rows)}\n]}}\n'


def _lines(entries: list[Json]) -> str:
    return ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in entries)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_rounded(entry) for entry in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def plot(worlds: dict[float, list[Json]], path: Path) -> None:
    """avg@k of every seed, one panel a world; the dashed line is the base model's mean majority@k."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(worlds), figsize=(5.5 * len(worlds), 4.5), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (slip, of_seeds) in zip(axes[0], worlds.items(), strict=True):
        k = of_seeds[0]["k"]
        names = [row["name"].replace("_", " ") for row in of_seeds[0]["rows"]]
        for found in of_seeds:
            values = [100 * row["tasks"]["metrics"][AVG_AT_K]["value"] for row in found["rows"]]
            axis.plot(values, range(len(names)), "o", color="C0", alpha=0.6)
        majority = mean([found["rows"][0]["tasks"]["metrics"][at(MAJORITY_AT, k)]["value"] for found in of_seeds])
        axis.axvline(100 * majority, linestyle="--", color="gray", linewidth=1)
        axis.annotate(f"base, majority@{k}", (100 * majority, 0), xytext=(4, 4), textcoords="offset points",
                      fontsize=8, color="gray")  # fmt: skip
        axis.set_yticks(range(len(names)), names)
        axis.set_xlim(0, 100)
        axis.set_xlabel(f"avg@{k} on held-out problems, %")
        axis.set_title(f"slip probability {slip}")
        axis.grid(alpha=0.3)
    axes[0][0].invert_yaxis()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def main(arguments: list[str]) -> None:
    show_help(arguments, __doc__)
    if len(arguments) < 2:
        raise UserError("expected FOLDER results.json [results.json ...]; --help shows how to run it")
    folder = Path(arguments[0])
    worlds: dict[float, list[Json]] = defaultdict(list)
    first: tuple[str, list[str]] | None = None
    for path in arguments[1:]:
        found = read_json(Path(path))
        if "world" not in found:
            raise UserError(f"{path}: no results of a quickstart's world; expected quickstart.json of --results")
        names = [row["name"] for row in found["rows"]]
        first = first or (path, names)
        if names != first[1]:
            raise UserError(
                f"{path} has the rows {', '.join(names)}, and {first[0]} has {', '.join(first[1])}; finish both "
                "with the same plan"
            )
        worlds[found["world"]["slip_probability"]].append(found)
    text = "\n".join(f"Slip probability {slip}\n\n{table(of_seeds)}" for slip, of_seeds in worlds.items())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "quickstart_rivals.json").write_text(raw_figures(worlds), encoding="utf-8")
    (folder / "quickstart_rivals.md").write_text(text, encoding="utf-8")
    plot(worlds, folder / "quickstart_rivals.png")
    print(text)
    print(f"written: {folder / 'quickstart_rivals.json'}, .md and .png")


if __name__ == "__main__":
    run_entry_point(main)
