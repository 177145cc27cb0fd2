"""The report's figures, drawn by matplotlib, as SVG that stands inline in the page."""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from srt.report.data import Stage
from srt.report.html import Html

ALL, SECOND, RIGHT, WRONG, VALIDATION = "#333b44", "#8a94a0", "#1f6f8b", "#c8551b", "#7d5aa6"
WIDTH, HEIGHT = 3.5, 2.2  # inches; the page scales them to 300 pixels and more
SMOOTHED_FROM = 20  # points; shorter curves are drawn as they are
MARKED_UP_TO = 50  # points that are marked one by one on an exact curve
SHORT_NAMES = {"base": "base", "stage1": "stage 1", "srt": "SRT", "sd_zero": "SD-Zero"}

STYLE = {
    "svg.fonttype": "none",  # text stays text, in the page's own font
    "text.parse_math": False,  # names of folders are no formulas
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
    """One curve. `exact`: drawn through its points, without a running mean."""

    label: str
    points: list[tuple[float, float]]
    color: str = ALL
    exact: bool = False


def _svg(name: str, draw: Callable[[Axes], None], height: float = HEIGHT) -> Html:
    """What `draw` draws. `name`, one for each figure of a page, is what a screen reader says."""
    # The salt keeps the ids of a page's figures apart, and a figure the same in every run.
    with rc_context(STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(WIDTH, height))
        draw(figure.subplots())
        buffer = io.StringIO()
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    return _inline(buffer.getvalue(), name)


def _inline(svg: str, name: str) -> Html:
    """The element alone: no XML header, no style or sizes for the page around it, no names that would clash."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[^"]*_[0-9]+"', "", svg)  # numbered names; what is referred to has a hash as its id
    view_box = re.search(r'viewBox="[^"]*"', svg)[0]
    return Html(f'<svg {view_box} role="img" aria-label="{name}">' + svg[svg.index(">") + 1 :].strip())


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """The mean over the `window` points around each; fewer at the ends, so that nothing is shifted."""
    ones = np.ones(window)
    return np.convolve(values, ones, mode="same") / np.convolve(np.ones(len(values)), ones, mode="same")


def smoothing_window(points: int) -> int:
    return 1 if points < SMOOTHED_FROM else 2 * (points // 24) + 3


def curves(
    name: str, series: list[Series], *, share: bool = False, from_zero: bool = True, x: str = "step"
) -> Html:
    """Values over steps: thin as they are, bold their running mean. `share`: values from 0 to 1, in percent."""

    def draw(axes: Axes) -> None:
        drawn = [one for one in series if one.points]
        for one in drawn:
            xs, ys = np.array(one.points, dtype=float).T
            if one.exact or len(xs) < SMOOTHED_FROM:
                marker = "o" if len(xs) <= MARKED_UP_TO else ""
                axes.plot(xs, ys, color=one.color, marker=marker, markersize=3.5, linewidth=1.3, label=one.label)
                continue
            window = smoothing_window(len(xs))
            faint = 0.35 if len(xs) < 300 else 0.18  # many steps overlap to a solid block
            axes.plot(xs, ys, color=one.color, linewidth=0.7, alpha=faint)
            axes.plot(xs, smooth(ys, window), color=one.color, linewidth=1.6, label=one.label)
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


def _by_stage(name: str, stages: list[Stage], draw: Callable[[Axes], None], legend: int) -> Html:
    """A row for each stage, the first on top."""

    def draw_all(axes: Axes) -> None:
        draw(axes)
        axes.set_yticks(range(len(stages)), [SHORT_NAMES.get(stage.key, stage.key) for stage in stages])
        axes.set_ylim(len(stages) - 0.45, -0.55)
        axes.tick_params(axis="y", length=0, labelcolor="#1d2126")
        axes.grid(axis="y", visible=False)
        if legend:
            _legend(axes, legend)

    return _svg(name, draw_all, height=1.0 + 0.3 * len(stages))


def stage_accuracy(stages: list[Stage], k: str) -> Html:
    """avg@k with its interval, and pass@k."""

    def draw(axes: Axes) -> None:
        rows = np.arange(len(stages))
        averages = np.array([stage.figures["avg_at_k"] for stage in stages])
        bounds = np.array([stage.figures["avg_at_k_interval"] for stage in stages])  # (stages, 2)
        errors = np.abs(bounds - averages[:, None]).T
        axes.errorbar(averages, rows, xerr=errors, fmt="none", ecolor=RIGHT, capsize=3)
        axes.plot(averages, rows, "o", color=RIGHT, markersize=6, label=f"avg@{k}")
        passes = [stage.figures["pass_at_k"] for stage in stages]
        axes.plot(passes, rows, "D", color=SECOND, markersize=5, markerfacecolor="white", label=f"pass@{k}")
        axes.set_xlim(-0.02, 1.02)
        axes.xaxis.set_major_formatter(_PERCENT)

    return _by_stage("accuracy of each stage", stages, draw, legend=2)


def stage_tokens(stages: list[Stage]) -> Html:
    def draw(axes: Axes) -> None:
        tokens = [stage.figures["mean_response_tokens"] for stage in stages]
        bars = axes.barh(range(len(stages)), tokens, height=0.55, color=SECOND)
        axes.bar_label(bars, [f"{value:,.0f}" for value in tokens], padding=3, fontsize=9, color="#1d2126")
        axes.set_xlim(0, 1.15 * max(tokens))

    return _by_stage("mean response length of each stage", stages, draw, legend=0)


def stage_revisions(stages: list[Stage]) -> Html:
    """Accuracy when asked to revise wrong and right responses; a stage that revised none of a kind has no mark."""

    def draw(axes: Axes) -> None:
        for r, color, marker in ((0, WRONG, "s"), (1, RIGHT, "o")):
            points = [(stage.figures[f"revise_r{r}"], row) for row, stage in enumerate(stages)]
            xs, rows = zip(*[point for point in points if point[0] is not None] or [(np.nan, 0)], strict=True)
            axes.plot(xs, rows, marker, color=color, markersize=6, label=f"{'right' if r else 'wrong'} (r = {r})")
        axes.set_xlim(-0.02, 1.02)
        axes.xaxis.set_major_formatter(_PERCENT)

    return _by_stage("accuracy of revisions of each stage", stages, draw, legend=2)


def metric(steps: list[dict[str, Any]], name: str, shift: int = 0) -> list[tuple[float, float]]:
    """(step + shift, value) of the steps that have the figure.

    A step without wrong responses has no kl_r0, and a figure that is not finite was logged as null.
    """
    return [(line["step"] + shift, line[name]) for line in steps if line.get(name) is not None]
