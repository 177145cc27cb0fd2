"""A comparison of models as tables of cells: one for all problems, and one for each source."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from srt.contract.metrics import (
    ACCURACY_AFTER,
    AVG_AT_K,
    BETTER_OF_BOTH,
    ENTROPY,
    GAIN_PER_1000_TOKENS,
    GREEDY_ACCURACY,
    MAJORITY_AT,
    MEAN_RESPONSE_TOKENS,
    PASS_AT,
    REVISE,
    REVISED,
    TOKENS_AFTER,
    TRUNCATED,
    at,
    by_reward,
)

Json = dict[str, Any]
Bounds = list[float] | None


def _share(value: float) -> str:
    return f"{100 * value:.1f}"


def _tokens(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}"


def _nats(value: float) -> str:
    return f"{value:.3f}"


@dataclass(frozen=True)
class Column:
    """One metric: its name in evaluation.json, its heading and unit, and how a value is written."""

    metric: str
    heading: str
    unit: str
    write: Callable[[float], str]

    @property
    def title(self) -> str:
        return f"{self.heading} ({self.unit})" if self.unit else self.heading


@dataclass(frozen=True)
class Cell:
    """A value with its interval, and its difference to the first model with the interval of that."""

    value: float | None
    bounds: Bounds
    difference: float | None = None
    difference_bounds: Bounds = None


@dataclass(frozen=True)
class Table:
    """`source`: "" for all problems. `rows`: label -> a cell for each column. `reference`: the first label."""

    source: str
    problems: int
    columns: list[Column]
    rows: dict[str, list[Cell]]

    @property
    def reference(self) -> str:
        return next(iter(self.rows))


def columns_for(k: int) -> list[Column]:
    return [
        Column(AVG_AT_K, f"avg@{k}", "%", _share),
        Column(at(PASS_AT, k), f"pass@{k}", "%", _share),
        Column(at(MAJORITY_AT, k), f"majority@{k}", "%", _share),
        Column(GREEDY_ACCURACY, "greedy", "%", _share),
        Column(ENTROPY, "entropy", "nats", _nats),
        Column(MEAN_RESPONSE_TOKENS, "tokens", "mean", _tokens),
        Column("response_tokens_p50", "tokens", "p50", _tokens),
        Column("response_tokens_p90", "tokens", "p90", _tokens),
        Column(TRUNCATED, "truncated", "%", _share),
        Column(by_reward(REVISE, 0), "repairs, r = 0", "%", _share),
        Column(by_reward(REVISE, 1), "keeps, r = 1", "%", _share),
        Column(REVISED, "revised", "%", _share),
        Column(ACCURACY_AFTER, "accuracy after", "%", _share),
        Column(BETTER_OF_BOTH, "better of both", "%", _share),
        Column(TOKENS_AFTER, "tokens after", "mean", _tokens),
        Column(GAIN_PER_1000_TOKENS, "gain per 1,000 tokens", "points", _share),
    ]


def tables_of(comparison: Json) -> list[Table]:
    """The tables of a comparison (the content of evaluation.json); columns without any value are left out."""
    models = comparison["models"]
    sources = list(dict.fromkeys(source for model in models for source in model["by_source"]))
    return [_table(comparison, source) for source in ["", *sources]]


def _table(comparison: Json, source: str) -> Table:
    parts = {model["label"]: _part(model, source) for model in comparison["models"]}
    changes = {entry["model"]: _part(entry, source)["metrics"] for entry in comparison["differences"]}
    columns = [
        column
        for column in columns_for(comparison["k"])
        if any(_entry(part["metrics"], column)["value"] is not None for part in parts.values())
    ]
    rows = {}
    for label, part in parts.items():
        rows[label] = []
        for column in columns:
            entry, change = _entry(part["metrics"], column), changes.get(label, {}).get(column.metric, {})
            rows[label].append(
                Cell(entry["value"], entry["interval"], change.get("difference"), change.get("interval"))
            )
    return Table(source, max(part["problems"] for part in parts.values()), columns, rows)


def _part(of_all: Json, source: str) -> Json:
    """The metrics of all problems, or of one source; empty where a model has none of its problems."""
    return of_all["by_source"].get(source, {"problems": 0, "metrics": {}}) if source else of_all


def _entry(metrics: Json, column: Column) -> Json:
    return metrics.get(column.metric, {"value": None, "interval": None})
