"""The tables of a comparison as text: for the terminal, Markdown, LaTeX, and CSV."""

import csv
import io
import shutil
from collections.abc import Callable
from typing import Any

from srt.contract.metrics import SET_ASIDE
from srt.evaluation.tables import Cell, Column, Table, tables_of

Json = dict[str, Any]
Write = Callable[[float], str]
CSV_FIELDS = (
    "model",
    "path",
    "source",
    "problems",
    "metric",
    "value",
    "low",
    "high",
    "difference_to",
    "difference",
    "difference_low",
    "difference_high",
)


def heading(comparison: Json) -> str:
    problems = max(model["problems"] for model in comparison["models"])
    return f"{comparison['k']} responses to each of {problems:,} problems of {comparison['dataset']}"


def notes(comparison: Json) -> list[str]:
    """A sentence for each model whose metrics are not over all that was asked for."""
    return [
        f"{model['label']}: samples without a verdict, which do not count: {model[SET_ASIDE]:,} (set_aside.jsonl "
        f"says why); problems with one: {model['problems']:,}"
        for model in comparison["models"]
        if model.get(SET_ASIDE)
    ]


def _value(cell: Cell, write: Write) -> str:
    if cell.value is None:
        return "-"
    return write(cell.value) + (f" ({_range(cell.bounds, write)})" if cell.bounds else "")


def _difference(cell: Cell, write: Write) -> str:
    if cell.difference is None:
        return "-"
    bounds = f" ({_range(cell.difference_bounds, _signed(write))})" if cell.difference_bounds else ""
    return _signed(write)(cell.difference) + bounds


def _range(bounds: list[float], write: Write) -> str:
    return f"{write(bounds[0])} to {write(bounds[1])}"


def _signed(write: Write) -> Write:
    return lambda value: ("-" if value < 0 else "+") + write(abs(value))


# Terminal ------------------------------------------------------------------------------------------------


def plain(comparison: Json, width: int | None = None) -> str:
    """Metrics as rows and models as columns, in several blocks if they are wider than `width` (the terminal's).

    Of each source it has the first metric only, avg@k; the files have all.
    """
    width = width or shutil.get_terminal_size((160, 40)).columns
    tables = tables_of(comparison)
    lines = [heading(comparison), "95% bootstrap intervals over problems", *notes(comparison)]
    for block in _blocks(tables, width):
        lines += ["", *block]
    return "\n".join(lines)


def _blocks(tables: list[Table], width: int) -> list[list[str]]:
    """The models, split so that each block of lines is at most `width` wide, if one model is."""
    blocks: list[list[str]] = [[]]
    for label in tables[0].rows:
        if blocks[-1] and max(map(len, _block(tables, [*blocks[-1], label]))) > width:
            blocks.append([])
        blocks[-1].append(label)
    return [_block(tables, labels) for labels in blocks]


def _block(tables: list[Table], labels: list[str]) -> list[str]:
    rows = [["", *labels]]
    for table in tables:
        for index, column in enumerate(table.columns[:1] if table.source else table.columns):
            cells = [table.rows[label][index] for label in labels]
            title = f"{table.source}: {column.title}" if table.source else column.title
            rows.append([title, *(_value(cell, column.write) for cell in cells)])
            if any(cell.difference is not None for cell in cells):
                changes = ["" if c.difference is None else _difference(c, column.write) for c in cells]
                rows.append([f"  minus {table.reference}", *changes])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


# Documents -----------------------------------------------------------------------------------------------


def markdown(comparison: Json) -> str:
    """One row per model, first the values and then the differences to the first model."""
    parts = [f"{heading(comparison)}; 95% bootstrap intervals over problems in parentheses."]
    parts += [f"{note}." for note in notes(comparison)]
    for table in tables_of(comparison):
        if table.source:
            parts.append(f"## {table.source} ({table.problems:,} problems)")
        parts.append(_markdown_rows(table, _value, table.rows))
        if len(table.rows) > 1:
            parts.append(f"Difference to {table.reference}, over the problems that both have:")
            others = {label: cells for label, cells in table.rows.items() if label != table.reference}
            parts.append(_markdown_rows(table, _difference, others))
    return "\n\n".join(parts) + "\n"


def _markdown_rows(table: Table, text: Callable[[Cell, Write], str], rows: dict[str, list[Cell]]) -> str:
    lines = ["| model |" + "".join(f" {column.title} |" for column in table.columns)]
    lines.append("|---|" + "---:|" * len(table.columns))
    for label, cells in rows.items():
        written = [text(cell, column.write) for cell, column in zip(cells, table.columns, strict=True)]
        name = label.replace("|", "\\|")
        lines.append(f"| {name} |" + "".join(f" {cell} |" for cell in written))
    return "\n".join(lines)


def latex(comparison: Json) -> str:
    """A tabular in the style of booktabs, with a group of rows for each source; intervals in small print."""
    tables = tables_of(comparison)
    columns = tables[0].columns
    lines = [
        "% needs \\usepackage{booktabs}; 95% bootstrap intervals over problems",
        f"\\begin{{tabular}}{{l{'r' * len(columns)}}}",
        "\\toprule",
        " & ".join(["model", *(_escape(column.title) for column in columns)]) + r" \\",
    ]
    for table in tables:
        lines.append("\\midrule")
        if table.source:
            title = _escape(f"{table.source} ({table.problems:,} problems)")
            lines.append(f"\\multicolumn{{{len(columns) + 1}}}{{l}}{{\\emph{{{title}}}}} \\\\")
        for label in table.rows:
            by_metric = dict(zip([column.metric for column in table.columns], table.rows[label], strict=True))
            cells = [_latex_cell(by_metric.get(column.metric), column) for column in columns]
            lines.append(" & ".join([_escape(label), *cells]) + r" \\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def _latex_cell(cell: Cell | None, column: Column) -> str:
    if cell is None or cell.value is None:
        return "--"
    value = column.write(cell.value)
    if not cell.bounds:
        return value
    return f"{value} {{\\scriptsize [{column.write(cell.bounds[0])}, {column.write(cell.bounds[1])}]}}"


def _escape(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)


def csv_text(comparison: Json) -> str:
    """One line for each model, source ("" for all problems) and metric, with full precision."""
    changes = {entry["model"]: entry for entry in comparison["differences"]}
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_FIELDS)
    for model in comparison["models"]:
        change = changes.get(model["label"], {"to": "", "metrics": {}, "by_source": {}})
        for source, part in {"": model, **model["by_source"]}.items():
            differences = (change if not source else change["by_source"].get(source, {"metrics": {}}))["metrics"]
            for metric, entry in part["metrics"].items():
                difference = differences.get(metric, {"difference": None, "interval": None})
                writer.writerow(
                    [
                        model["label"],
                        model["model"],
                        source,
                        part["problems"],
                        metric,
                        entry["value"],
                        *(entry["interval"] or (None, None)),
                        change["to"],
                        difference["difference"],
                        *(difference["interval"] or (None, None)),
                    ]
                )
    return buffer.getvalue()
