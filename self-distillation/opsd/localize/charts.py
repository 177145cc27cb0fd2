"""Line and bar charts as inline SVG, in the page's own colors, so that they follow light and dark."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from srt.report.charts import figure
from srt.report.html import Html, element

WIDTH, HEIGHT = 460, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 20, 12, 42  # RIGHT: half of the last tick, such as 10000
LEGEND_COLUMNS, LEGEND_ROW = 2, 18
Format = Callable[[float], str]


@dataclass(frozen=True)
class Series:
    """`style`: a class of page.css that gives the color: r0 or r1. A y of None is a gap."""

    name: str
    style: str
    x: Sequence[float]
    y: Sequence[float | None]


@dataclass(frozen=True)
class Axis:
    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """Where the value is between low (0) and high (1)."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            factors = (1, 2, 5) if len(decades) < 3 else (1,)
            ticks = [factor * 10.0**decade for decade in decades for factor in factors]
            return [tick for tick in ticks if self.low <= tick <= self.high]
        span = self.high - self.low
        step = 10 ** math.floor(math.log10(span / 3))
        step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 5)
        first = math.ceil(self.low / step - 1e-9)
        return [index * step for index in range(first, math.floor(self.high / step + 1e-9) + 1)]


def line_chart(
    name: str, series: Sequence[Series], title: str, note: str, x_label: str, y_format: Format, log_x: bool = False
) -> Html:
    """A figure whose y axis begins at 0. Series without points are left out.

    `name`: of the files in which picture and data can be saved.
    """
    series = [line for line in series if any(y is not None for y in line.y)]
    if not series:
        return empty_figure(title)
    values = [y for line in series for y in line.y if y is not None]
    xs = [x for line in series for x in line.x]
    x_axis = Axis(min(xs), max(max(xs), min(xs) + 1), log_x)
    y_axis = Axis(0.0, max(max(values), 1e-9) * 1.05)
    parts: list[Html] = []
    for line in series:
        parts.append(element("path", d=_path(line, x_axis, y_axis), class_=f"line {line.style}"))
    points = [dict(zip(line.x, line.y, strict=True)) for line in series]
    rows = [[x, *(line.get(x) for line in points)] for x in sorted(set(xs))]
    drawn = [*_axes(x_axis, y_axis, x_label, y_format), *parts]
    return _figure(name, title, note, drawn, series, [[x_label, *(line.name for line in series)], *rows])


def bar_chart(
    name: str,
    labels: Sequence[str],
    series: Sequence[Series],
    title: str,
    note: str,
    y_format: Format,
    x_label: str = "",
    every: int = 1,
) -> Html:
    """Bars side by side for each label, of which each `every`-th is shown; the x of the series are not used.

    `name`: of the files in which picture and data can be saved.
    """
    values = [y for line in series for y in line.y if y is not None]
    if not values:
        return empty_figure(title)
    y_axis = Axis(0.0, max(max(values), 1e-9) * 1.05)
    slot = (WIDTH - LEFT - RIGHT) / len(labels)
    width = slot * 0.8 / len(series)
    parts = _y_axis(y_axis, y_format)
    for index, label in enumerate(labels):
        x = LEFT + (index + 0.5) * slot
        if index % every == 0:
            parts.append(element("text", label, x=_px(x), y=HEIGHT - BOTTOM + 16, class_="tick middle"))
        for number, line in enumerate(series):
            value = line.y[index] or 0.0
            height = (HEIGHT - TOP - BOTTOM) * y_axis.share(value)
            hint = element("title", f"{label}, {line.name}: {y_format(value)}")
            bar = x - slot * 0.4 + number * width
            parts.append(
                element(
                    "rect",
                    hint,
                    x=_px(bar),
                    y=_px(HEIGHT - BOTTOM - height),
                    width=_px(width * 0.92),
                    height=_px(height),
                    class_=f"bar {line.style}",
                )
            )
    parts.append(element("text", x_label, x=(LEFT + WIDTH - RIGHT) // 2, y=HEIGHT - 6, class_="tick middle"))
    rows = [[label, *(line.y[index] for line in series)] for index, label in enumerate(labels)]
    return _figure(name, title, note, parts, series, [[x_label, *(line.name for line in series)], *rows])


def empty_figure(title: str) -> Html:
    return element("figure", element("figcaption", title, element("span", "nothing to show")))


def _axes(x_axis: Axis, y_axis: Axis, x_label: str, y_format: Format) -> list[Html]:
    parts = _y_axis(y_axis, y_format)
    for tick in x_axis.ticks():
        x = LEFT + (WIDTH - LEFT - RIGHT) * x_axis.share(tick)
        parts.append(element("text", f"{tick:g}", x=_px(x), y=HEIGHT - BOTTOM + 16, class_="tick middle"))
    parts.append(element("text", x_label, x=(LEFT + WIDTH - RIGHT) // 2, y=HEIGHT - 6, class_="tick middle"))
    return parts


def _y_axis(y_axis: Axis, y_format: Format) -> list[Html]:
    parts = []
    for tick in y_axis.ticks():
        y = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y_axis.share(tick)
        parts.append(element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=_px(y), y2=_px(y), class_="grid"))
        parts.append(element("text", y_format(tick), x=LEFT - 6, y=_px(y + 4), class_="tick end"))
    return parts


def _path(line: Series, x_axis: Axis, y_axis: Axis) -> str:
    commands, pen_down = [], False
    for x, y in zip(line.x, line.y, strict=True):
        if y is None:
            pen_down = False
            continue
        px = LEFT + (WIDTH - LEFT - RIGHT) * x_axis.share(x)
        py = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y_axis.share(y)
        commands.append(f"{'L' if pen_down else 'M'}{_px(px)} {_px(py)}")
        pen_down = True
    return "".join(commands)


def _legend(series: Sequence[Series]) -> list[Html]:
    """Under the plot, within the picture, so that a saved one has it."""
    parts = []
    for index, line in enumerate(series):
        x = LEFT + (WIDTH - LEFT) * (index % LEGEND_COLUMNS) // LEGEND_COLUMNS
        y = HEIGHT + LEGEND_ROW * (index // LEGEND_COLUMNS)
        parts.append(element("rect", x=x, y=y, width=14, height=10, rx=2, class_=f"bar {line.style}"))
        parts.append(element("text", line.name, x=x + 20, y=y + 10))
    return parts


def _figure(
    name: str,
    title: str,
    note: str,
    parts: Sequence[Html],
    series: Sequence[Series],
    rows: Sequence[Sequence[object]],
) -> Html:
    height = HEIGHT + LEGEND_ROW * -(-len(series) // LEGEND_COLUMNS)
    parts = [*parts, *_legend(series)]
    svg = element("svg", *parts, viewBox=f"0 0 {WIDTH} {height}", role="img", aria_label=title)
    key = re.sub(r"[^\w.]+", "-", name).strip("-")
    return figure(key, title, note, svg, rows=rows, class_="chart")


def _px(value: float) -> str:
    return f"{value:.1f}"
