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
    from matplotlib.ticker import PercentFormatter

    style: Any = {"svg.hashsalt": PLOT, "svg.fonttype": "none", "text.parse_math": False, "font.size": 9}
    with rc_context(style):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.subplots()
        for index, model in enumerate(comparison["models"]):
            _draw_model(
                axes, accuracy_by_tokens(model, comparison["k"]), COLORS[index % len(COLORS)], model["label"]
            )
        axes.set_xscale("log")
        axes.set_xlabel("tokens generated per answer (log scale)")
        axes.set_ylabel("accuracy")
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        axes.grid(color="#eceef0")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
        buffer = io.BytesIO()
        metadata: Any = {"Date": None} if format == "svg" else {"Software": None}
        figure.savefig(buffer, format=format, dpi=160, metadata=metadata)
    return buffer.getvalue()


def _draw_model(axes: Any, curves: dict[str, list[Json]], color: str, label: str) -> None:
    """A line for the majority vote, a dotted one for pass@k; markers for the response and its revision."""
    lines = {
        "majority": ("-", f"{label}: majority of 1, 2, ..."),
        "pass": (":", f"{label}: one of 1, 2, ... correct"),
    }
    for name, (line, text) in lines.items():
        if points := curves.get(name):
            xs, ys = [p["tokens"] for p in points], [p["accuracy"] for p in points]
            axes.plot(xs, ys, line, color=color, marker=".", linewidth=1.2, markersize=4, label=text)
    markers = {
        "response": ("o", color, f"{label}: one response"),
        "revised": ("D", color, f"{label}: response and revision"),
        "better of both": ("D", "none", f"{label}: better of both"),
    }
    for name, (marker, face, text) in markers.items():
        for p in curves.get(name, []):
            low, high = p["interval"] or (p["accuracy"], p["accuracy"])
            axes.errorbar(
                p["tokens"],
                p["accuracy"],
                yerr=[[max(p["accuracy"] - low, 0)], [max(high - p["accuracy"], 0)]],
                fmt=marker,
                color=color,
                markerfacecolor=face,
                markersize=6,
                elinewidth=0.8,
                capsize=2,
                label=text,
            )
