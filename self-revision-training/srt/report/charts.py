"""The curves of the page: what they show, as data for charts.js, and the figures that it draws them into."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeGuard

from srt.report.html import Html, element, json_text

# Roles of curves, each with a color; with several runs, a run has a color and a role a dash.
MAIN, SECOND, VALIDATION, WRONG, CORRECT = "main", "second", "validation", "r0", "r1"
SPIKE = 30  # largest value over the median from which a logarithmic axis shows more
SIGNIFICANT_DIGITS = 5
LARGEST = 1e100

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Series:
    """One curve. `exact`: drawn through its points, without smoothing. `run`: index of its run."""

    label: str
    points: Points
    role: str = MAIN
    exact: bool = False
    run: int = 0


@dataclass(frozen=True)
class Chart:
    """`share`: values in [0, 1], shown in percent. `marks`: positions on the x axis with a vertical line.

    A chart without points is left out of the page.
    """

    key: str
    title: str
    subtitle: str
    series: Sequence[Series]
    x: str = "step"
    share: bool = False
    from_zero: bool = True
    marks: Sequence[float] = ()

    @property
    def drawn(self) -> list[Series]:
        return [series for series in self.series if series.points]

    @property
    def has_spikes(self) -> bool:
        """Some curve is hardly visible beside the highest value, and a logarithm can show all."""
        values = [[y for _, y in series.points] for series in self.drawn]
        if self.share or not values or min(map(min, values)) <= 0:
            return False
        return max(map(max, values)) > SPIKE * min(median(ys) for ys in values)

    def as_data(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "subtitle": self.subtitle,
            "x": self.x,
            "share": self.share,
            "fromZero": self.from_zero,
            "log": self.has_spikes,
            "marks": list(self.marks),
            "series": [
                {
                    "label": series.label,
                    "role": series.role,
                    "exact": series.exact,
                    "run": series.run,
                    "x": [x for x, _ in series.points],
                    "y": [_rounded(y) for _, y in series.points],
                }
                for series in self.drawn
            ],
        }


def figures(charts: Iterable[Chart]) -> Html | None:
    """The figures of those charts that have points; None if none has."""
    shown = [chart for chart in charts if chart.drawn]
    if not shown:
        return None
    return element("div", *(figure(chart.key, chart.title, chart.subtitle) for chart in shown), class_="plots")


def figure(
    key: str,
    title: str,
    subtitle: str,
    *children: object,
    rows: Sequence[Sequence[object]] = (),
    **attributes: str,
) -> Html:
    """Without children, charts.js draws the chart with that key into it.

    With children, a picture among them, export.js saves the picture and `rows`, its data, under the name `key`.
    """
    caption = element("figcaption", title, element("span", subtitle))
    kind = {"data_picture": key, "data_rows": json_text(rows)} if children else {"data_chart": key}
    return element("figure", caption, *children, **kind, **attributes)


def charts_data(charts: Iterable[Chart], runs: Sequence[str]) -> dict[str, Any]:
    return {"runs": list(runs), "charts": {chart.key: chart.as_data() for chart in charts if chart.drawn}}


def metric_points(lines: Iterable[dict[str, Any]], name: str, shift: int = 0) -> list[tuple[float, float]]:
    """(step + shift, value) for the lines that have the metric.

    A step without wrong responses has no kl_r0, and a value that is not finite is logged as null.
    """
    return [(line["step"] + shift, line[name]) for line in lines if is_number(line.get(name))]


def is_number(value: object) -> TypeGuard[float]:
    """Finite, and of a size that can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def _rounded(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
