"""Accuracy against tokens: what revising costs and gains, beside a majority vote that costs as much."""

import io
from pathlib import Path
from typing import Any

from srt.common.files import atomic_write
from srt.contract.metrics import (
    ACCURACY_AFTER,
    AVG_AT_K,
    BETTER_OF_BOTH,
    MAJORITY_AT,
    MEAN_RESPONSE_TOKENS,
    PASS_AT,
    TOKENS_AFTER,
    at,
)

Json = dict[str, Any]
PLOT = "accuracy_by_tokens"
FORMATS = ("svg", "png")
TEXTS = {
    "response": "one response",
    "revised": "response and revision",
    "better of both": "better of response and revision",
    "majority": "majority of 1, 2, ... responses",
    "pass": "one of 1, 2, ... responses correct",
}
LOOKS: dict[str, Json] = {
    "response": {"marker": "o", "linestyle": "none", "markersize": 6},
    "revised": {"marker": "D", "linestyle": "none", "markersize": 6},
    "better of both": {"marker": "D", "linestyle": "none", "markersize": 6, "markerfacecolor": "none"},
    "majority": {"marker": ".", "linestyle": "-", "markersize": 4, "linewidth": 1.2},
    "pass": {"marker": ".", "linestyle": ":", "markersize": 4, "linewidth": 1.2},
}
COLORS = ("#333b44", "#1f6f8b", "#c8551b", "#7d5aa6", "#4d8b31", "#b3365d", "#8a94a0")


def accuracy_by_tokens(model: Json, k: int) -> dict[str, list[Json]]:
    """Curve -> its points, {"tokens", "accuracy", "interval"}: tokens generated per answer, accuracy in [0, 1].

    "majority" and "pass" have a point for each number of responses, at so many times the mean length; "response",
    "revised" and "better of both" have one. What the model does not have is left out.
    """
    metrics = model["metrics"]
    length = metrics[MEAN_RESPONSE_TOKENS]["value"]

    def point(tokens: float, name: str) -> list[Json]:
        entry = metrics.get(name)
        if entry is None or entry["value"] is None:
            return []
        return [{"tokens": tokens, "accuracy": entry["value"], "interval": entry["interval"]}]

    curves = {
        "majority": [p for j in range(1, k + 1) for p in point(j * length, at(MAJORITY_AT, j))],
        "pass": [p for j in range(1, k + 1) for p in point(j * length, at(PASS_AT, j))],
        "response": point(length, AVG_AT_K),
    }
    if TOKENS_AFTER in metrics:
        tokens_after = metrics[TOKENS_AFTER]["value"]
        curves["revised"] = point(tokens_after, ACCURACY_AFTER)
        curves["better of both"] = point(tokens_after, BETTER_OF_BOTH)
    return {name: points for name, points in curves.items() if points}


def write_plot(folder: Path, comparison: Json) -> list[Path]:
    """The plot of a comparison (the content of evaluation.json) in each of FORMATS; returns the files."""
    files = []
    for format in FORMATS:
        path = folder / f"{PLOT}.{format}"
        with atomic_write(path) as temporary:
            temporary.write_bytes(_drawn(comparison, format))
        files.append(path)
    return files


def _drawn(comparison: Json, format: str) -> bytes:
    from matplotlib import rc_context  # takes a second, which --help and a failing run need not wait for
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

    style: Any = {"svg.hashsalt": PLOT, "svg.fonttype": "none", "text.parse_math": False, "font.size": 9}
    with rc_context(style):
        figure = Figure(figsize=(7.6, 4.2), layout="constrained")
        axes = figure.subplots()
        kinds: set[str] = set()
        for index, model in enumerate(comparison["models"]):
            curves = accuracy_by_tokens(model, comparison["k"])
            kinds |= curves.keys()
            _draw_model(axes, curves, COLORS[index % len(COLORS)])
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: f"{tokens:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("tokens generated per answer (log scale)")
        axes.set_ylabel("accuracy")
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        axes.grid(color="#eceef0")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        labels = [model["label"] for model in comparison["models"]]
        figure.legend(handles=_legend(labels, kinds), loc="outside right upper", frameon=False, fontsize=8)
        buffer = io.BytesIO()
        metadata: Any = {"Date": None} if format == "svg" else {"Software": None}
        figure.savefig(buffer, format=format, dpi=160, metadata=metadata)
    return buffer.getvalue()


def _draw_model(axes: Any, curves: dict[str, list[Json]], color: str) -> None:
    """Lines for what is chosen among several responses; a marker with its interval for each single answer."""
    for name, points in curves.items():
        look = LOOKS[name] | {"color": color}
        xs, ys = [p["tokens"] for p in points], [p["accuracy"] for p in points]
        if name in ("majority", "pass"):
            axes.plot(xs, ys, **look)
            continue
        low, high = points[0]["interval"] or (ys[0], ys[0])
        below, above = max(ys[0] - low, 0), max(high - ys[0], 0)  # a bootstrap interval need not hold the value
        axes.errorbar(xs, ys, yerr=[[below], [above]], elinewidth=0.8, capsize=2, **look)


def _legend(labels: list[str], kinds: set[str]) -> list[Any]:
    """One entry for the color of each model, then one for the look of each kind of curve."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    colors = [Patch(color=COLORS[index % len(COLORS)], label=label) for index, label in enumerate(labels)]
    looks = [Line2D([], [], color="#5d656e", label=TEXTS[name], **LOOKS[name]) for name in TEXTS if name in kinds]
    return [*colors, *looks]
