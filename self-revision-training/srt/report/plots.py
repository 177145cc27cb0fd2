"""The plots of the report: drawn by matplotlib, returned as inline SVG."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from srt.contract.metrics import AVG_AT_K, REVISE, by_reward
from srt.report.data import EvaluatedStage
from srt.report.html import Html

DEFAULT_COLOR, SECOND_COLOR, VALIDATION_COLOR = "#333b44", "#8a94a0", "#7d5aa6"
REWARD_COLORS = ("#c8551b", "#1f6f8b")  # r = 0, r = 1
WIDTH, HEIGHT = 3.5, 2.2  # inches; scaled by the page to at least 300 pixels
MIN_POINTS_TO_SMOOTH = 20
MAX_MARKERS = 50  # per curve; longer ones have no markers
SHORT_NAMES = {"base": "base", "stage1": "stage 1", "srt": "SRT", "sd_zero": "SD-Zero"}

STYLE = {
    "svg.fonttype": "none",  # keep text as text, in the font of the page
    "text.parse_math": False,  # folder names are not formulas
    "font.size": 9,
    "axes.edgecolor": "#b9c0c7",
    "axes.labelcolor": "#5d656e",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eceef0",
    "xtick.color": "#b9c0c7",
    "ytick.color": "#b9c0c7",
    "xtick.labelcolor": "#5d656e",
    "ytick.labelcolor": "#5d656e",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Series:
    """One curve. `exact`: drawn through its points, without smoothing."""

    label: str
    points: Sequence[tuple[float, float]]
    color: str = DEFAULT_COLOR
    exact: bool = False


def _svg(name: str, draw: Callable[[Axes], None], height: float = HEIGHT) -> Html:
    """Render what `draw` draws. `name` is the label for screen readers, unique within the page."""
    # The salt makes element ids unique within the page and reproducible.
    style: Any = STYLE | {"svg.hashsalt": name}  # matplotlib types its keys as literals
    with rc_context(style):
        figure = Figure(figsize=(WIDTH, height))
        draw(figure.subplots())
        buffer = io.StringIO()
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    return _inline(buffer.getvalue(), name)


def _inline(svg: str, name: str) -> Html:
    """Only the <svg> element, without XML header, global style, fixed size, or ids that would clash."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[^"]*_[0-9]+"', "", svg)  # numbered ids; those that are referenced are hashes
    view_box = re.search(r'viewBox="[^"]*"', svg)
    assert view_box, "matplotlib writes a viewBox"
    return Html(f'<svg {view_box[0]} role="img" aria-label="{name}">' + svg[svg.index(">") + 1 :].strip())


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Centered moving average over `window` points, with a shorter window at both ends, so nothing is shifted."""
    ones = np.ones(window)
    return np.convolve(values, ones, mode="same") / np.convolve(np.ones(len(values)), ones, mode="same")


def smoothing_window(points: int) -> int:
    return 1 if points < MIN_POINTS_TO_SMOOTH else 2 * (points // 24) + 3


def line_plot(
    name: str, series: Sequence[Series], *, share: bool = False, from_zero: bool = True, x: str = "step"
) -> Html:
    """Values over steps, thin, and their moving average, bold. `share`: values in [0, 1], shown in percent."""

    def draw(axes: Axes) -> None:
        drawn = [curve for curve in series if curve.points]
        for curve in drawn:
            xs, ys = np.array(curve.points, dtype=float).T
            if curve.exact or len(xs) < MIN_POINTS_TO_SMOOTH:
                marker = "o" if len(xs) <= MAX_MARKERS else ""
                axes.plot(
                    xs, ys, color=curve.color, marker=marker, markersize=3.5, linewidth=1.3, label=curve.label
                )
                continue
            window = smoothing_window(len(xs))
            alpha = 0.35 if len(xs) < 300 else 0.18  # many steps would overlap into a solid block
            axes.plot(xs, ys, color=curve.color, linewidth=0.7, alpha=alpha)
            axes.plot(xs, smooth(ys, window), color=curve.color, linewidth=1.6, label=curve.label)
        axes.set_xlabel(x)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.yaxis.set_major_formatter(_PERCENT if share else _NUMBER)
        if from_zero:
            axes.set_ylim(bottom=0)
        if len(drawn) > 1:
            _legend(axes, len(drawn))

    return _svg(name, draw)


_PERCENT = FuncFormatter(lambda value, _: f"{round(100 * value, 6):g}%")
_NUMBER = FuncFormatter(lambda value, _: f"{round(value, 12):g}")


def _legend(axes: Axes, columns: int) -> None:
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        borderpad=0,
        borderaxespad=0.3,
        handlelength=1.2,
        columnspacing=1.2,
    )


def _by_stage(name: str, stages: list[EvaluatedStage], draw: Callable[[Axes], None], legend: int) -> Html:
    """One row per stage, the first on top."""

    def draw_all(axes: Axes) -> None:
        draw(axes)
        axes.set_yticks(range(len(stages)), [SHORT_NAMES.get(stage.key, stage.key) for stage in stages])
        axes.set_ylim(len(stages) - 0.45, -0.55)
        axes.tick_params(axis="y", length=0, labelcolor="#1d2126")
        axes.grid(axis="y", visible=False)
        if legend:
            _legend(axes, legend)

    return _svg(name, draw_all, height=1.0 + 0.3 * len(stages))


def accuracy_plot(stages: list[EvaluatedStage], k: str) -> Html:
    """avg@k with its interval, and pass@k."""

    def draw(axes: Axes) -> None:
        rows = np.arange(len(stages))
        averages = np.array([stage.metrics[AVG_AT_K] for stage in stages])
        bounds = np.array([stage.metrics["avg_at_k_interval"] for stage in stages])  # (stages, 2)
        errors = np.abs(bounds - averages[:, None]).T
        axes.errorbar(averages, rows, xerr=errors, fmt="none", ecolor=REWARD_COLORS[1], capsize=3)
        axes.plot(averages, rows, "o", color=REWARD_COLORS[1], markersize=6, label=f"avg@{k}")
        passes = [stage.metrics["pass_at_k"] for stage in stages]
        axes.plot(passes, rows, "D", color=SECOND_COLOR, markersize=5, markerfacecolor="white", label=f"pass@{k}")
        axes.set_xlim(-0.02, 1.02)
        axes.xaxis.set_major_formatter(_PERCENT)

    return _by_stage("accuracy of each stage", stages, draw, legend=2)


def response_length_plot(stages: list[EvaluatedStage]) -> Html:
    def draw(axes: Axes) -> None:
        tokens = [stage.metrics["mean_response_tokens"] for stage in stages]
        bars = axes.barh(range(len(stages)), tokens, height=0.55, color=SECOND_COLOR)
        axes.bar_label(bars, [f"{value:,.0f}" for value in tokens], padding=3, fontsize=9, color="#1d2126")
        axes.set_xlim(0, 1.15 * max(tokens))

    return _by_stage("mean response length of each stage", stages, draw, legend=0)


def revision_plot(stages: list[EvaluatedStage]) -> Html:
    """Accuracy of revisions by reward of the response; a stage without revisions for a reward has no marker."""

    def draw(axes: Axes) -> None:
        for r, label, marker in ((0, "wrong", "s"), (1, "correct", "o")):
            points = [(stage.metrics[by_reward(REVISE, r)], row) for row, stage in enumerate(stages)]
            xs, rows = zip(*[point for point in points if point[0] is not None] or [(np.nan, 0)], strict=True)
            axes.plot(xs, rows, marker, color=REWARD_COLORS[r], markersize=6, label=f"{label} (r = {r})")
        axes.set_xlim(-0.02, 1.02)
        axes.xaxis.set_major_formatter(_PERCENT)

    return _by_stage("accuracy of revisions of each stage", stages, draw, legend=2)


def metric_points(steps: list[dict[str, Any]], name: str, shift: int = 0) -> list[tuple[float, float]]:
    """(step + shift, value) for the steps that have the metric.

    A step without wrong responses has no kl_r0, and a value that is not finite is logged as null.
    """
    return [(line["step"] + shift, line[name]) for line in steps if line.get(name) is not None]
