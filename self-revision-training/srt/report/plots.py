"""The plots of the evaluated stages: drawn by matplotlib, returned as inline SVG in the colors of the page."""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from srt.contract.metrics import AVG_AT_K, REVISE, by_reward
from srt.report.charts import is_number
from srt.report.data import EvaluatedStage
from srt.report.html import Html

WIDTH = 3.5  # inches; scaled by the page to at least 300 pixels

# Drawn in these colors, each of which becomes a variable of style.css.
INK, SOFT, EDGE, GRID, PAGE, SECOND = "#1d2126", "#5d656e", "#b9c0c7", "#eceef0", "#fefefe", "#8a94a0"
REWARD_COLORS = ("#b5460f", "#1f6f8b")  # r = 0, r = 1
VARIABLES = {
    INK: "ink",
    SOFT: "soft",
    EDGE: "line",
    GRID: "grid",
    PAGE: "page",
    SECOND: "second",
    REWARD_COLORS[0]: "wrong",
    REWARD_COLORS[1]: "correct",
}

STYLE = {
    "svg.fonttype": "none",  # keep text as text, in the font of the page
    "text.parse_math": False,  # folder names are not formulas
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": EDGE,
    "axes.labelcolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": EDGE,
    "ytick.color": EDGE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.borderpad": 0,
    "legend.borderaxespad": 0,
    "figure.constrained_layout.use": True,
}

PERCENT = FuncFormatter(lambda value, _: f"{round(100 * value, 6):g}%")


def accuracy_plot(stages: Sequence[EvaluatedStage], k: str) -> Html:
    """avg@k with its interval, and pass@k."""

    def draw(axes: Axes) -> None:
        rows = np.arange(len(stages))
        averages = np.array([stage.metrics[AVG_AT_K] for stage in stages])
        bounds = [_bounds(stage.metrics.get("avg_at_k_interval")) for stage in stages]
        errors = np.abs(np.array(bounds) - averages[:, None]).T  # (2, stages)
        axes.errorbar(averages, rows, xerr=errors, fmt="none", color=REWARD_COLORS[1], capsize=3)
        axes.plot(averages, rows, "o", color=REWARD_COLORS[1], markersize=6, label=f"avg@{k}")
        passes = [_number(stage.metrics.get("pass_at_k")) for stage in stages]
        axes.plot(passes, rows, "D", color=SECOND, markersize=5, markerfacecolor=PAGE, label=f"pass@{k}")
        _accuracy_axis(axes)

    return _by_stage("accuracy of each stage", stages, draw, legend=2)


def response_length_plot(stages: Sequence[EvaluatedStage]) -> Html:
    def draw(axes: Axes) -> None:
        tokens = [_number(stage.metrics.get("mean_response_tokens")) for stage in stages]
        bars = axes.barh(range(len(stages)), tokens, height=0.55, color=SECOND)
        axes.bar_label(bars, [f"{value:,.0f}" for value in tokens], padding=3, fontsize=9, color=INK)
        axes.set_xlim(0, 1.15 * max([*(value for value in tokens if value > 0), 1.0]))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4))

    return _by_stage("mean response length of each stage", stages, draw, legend=0)


def revision_plot(stages: Sequence[EvaluatedStage]) -> Html:
    """Accuracy of revisions by reward of the response; a stage without revisions for a reward has no marker."""

    def draw(axes: Axes) -> None:
        for r, label, marker in ((0, "wrong", "s"), (1, "correct", "o")):
            values = [_number(stage.metrics.get(by_reward(REVISE, r))) for stage in stages]
            rows = range(len(stages))
            axes.plot(values, rows, marker, color=REWARD_COLORS[r], markersize=6, label=f"{label} (r = {r})")
        _accuracy_axis(axes)

    return _by_stage("accuracy of revisions of each stage", stages, draw, legend=2)


def _number(value: Any) -> float:
    """NaN, which is not drawn, for what an evaluation does not have."""
    return float(value) if is_number(value) else np.nan


def _bounds(interval: Any) -> list[float]:
    is_pair = isinstance(interval, list) and len(interval) == 2
    return [_number(bound) for bound in interval] if is_pair else [np.nan, np.nan]


def _accuracy_axis(axes: Axes) -> None:
    axes.set_xlim(-0.02, 1.02)
    axes.xaxis.set_major_formatter(PERCENT)


def _by_stage(name: str, stages: Sequence[EvaluatedStage], draw: Callable[[Axes], None], legend: int) -> Html:
    """One row per stage, the first on top."""

    def draw_all(axes: Axes) -> None:
        draw(axes)
        axes.set_yticks(range(len(stages)), [stage.short_name for stage in stages])
        axes.set_ylim(len(stages) - 0.45, -0.55)
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.grid(axis="y", visible=False)

    # The salt makes element ids unique within the page and reproducible.
    style: Any = STYLE | {"svg.hashsalt": name}  # matplotlib types its keys as literals
    with rc_context(style):
        figure = Figure(figsize=(WIDTH, 1.0 + 0.3 * len(stages)))
        axes = figure.subplots()
        draw_all(axes)
        if legend:
            figure.legend(loc="outside upper left", ncols=legend, handlelength=1.2, columnspacing=1.2)
        buffer = io.StringIO()
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    return _inline(buffer.getvalue(), name)


def _inline(svg: str, name: str) -> Html:
    """Only the <svg> element in the colors of the page, without XML header, global style, fixed size, or ids that
    would clash."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[^"]*_[0-9]+"', "", svg)  # numbered ids; those that are referenced are hashes
    svg = re.sub("|".join(VARIABLES), lambda color: f"var(--{VARIABLES[color[0]]})", svg)
    view_box = re.search(r'viewBox="[^"]*"', svg)
    assert view_box, "matplotlib writes a viewBox"
    return Html(f'<svg {view_box[0]} role="img" aria-label="{name}">' + svg[svg.index(">") + 1 :].strip())
