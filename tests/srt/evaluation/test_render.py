"""The tables as text: terminal, Markdown, LaTeX and CSV."""

import csv
import io

import pytest

from srt.collect.collector import GREEDY
from srt.evaluation.metrics import differences, evaluation_metrics
from srt.evaluation.render import csv_text, latex, markdown, plain
from srt.evaluation.tables import tables_of
from tests.srt.helpers.evaluated import grouped, new_response, new_revision, responses_of

LABELS = ["base_1", "srt & more", "sd_zero"]


def comparison(labels=LABELS, sources=("a", "b", "b"), greedy=True) -> dict:
    samples = []
    for index in range(len(labels)):
        rewards = [[1, 1], [int(index > 0), 0], [int(index > 1), int(index > 1)]]
        of_model = [*responses_of(rewards), new_revision(1, 1, True)]
        of_model += [new_response(p, GREEDY, index == p) for p in range(3)] if greedy else []
        samples.append(grouped([s._replace(tokens=1500 + index) for s in of_model], list(sources)))
    return {
        "dataset": "held.jsonl",
        "k": 2,
        "models": [
            {"label": label, "model": f"models/{label}"} | evaluation_metrics(of_model, 2, "math", 0)
            for label, of_model in zip(labels, samples, strict=True)
        ],
        "differences": [
            {"model": label, "to": labels[0]} | differences(of_model, samples[0], 2, "math", 0)
            for label, of_model in zip(labels[1:], samples[1:], strict=True)
        ],
    }


def test_the_tables_have_a_row_for_each_model_and_one_table_for_each_source():
    of_all, *of_sources = tables_of(comparison())
    assert list(of_all.rows) == LABELS and of_all.reference == "base_1"
    assert [(table.source, table.problems) for table in of_sources] == [("a", 1), ("b", 2)]
    cell = of_all.rows["sd_zero"][0]
    assert (cell.value, cell.difference) == (pytest.approx(5 / 6), pytest.approx(0.5))
    assert of_all.rows["base_1"][0].difference is None


def test_columns_without_any_value_are_left_out():
    headings = [column.heading for column in tables_of(comparison(greedy=False))[0].columns]
    assert "greedy" not in headings and "entropy" not in headings and "avg@2" in headings
    assert "greedy" in [column.heading for column in tables_of(comparison())[0].columns]


def test_samples_without_a_verdict_are_named_with_the_metrics():
    content = comparison()
    assert "without a verdict" not in plain(content) + markdown(content)
    content["models"][1]["set_aside"] = 1200
    note = "srt & more: samples without a verdict, which do not count: 1,200 (set_aside.jsonl says why); "
    note += "problems with one: 3"
    assert note in plain(content).splitlines() and f"\n\n{note}.\n\n" in markdown(content)


def test_the_terminal_shows_values_intervals_and_differences():
    text = plain(comparison(), width=500)
    assert text.startswith("2 responses to each of 3 problems of held.jsonl")
    lines = {line.split("  ")[0]: line for line in text.splitlines()}
    assert "33.3 (0.0 to 100.0)" in lines["avg@2 (%)"] and "83.3 (50.0 to 100.0)" in lines["avg@2 (%)"]
    rows = text.splitlines()
    below = rows[rows.index(lines["avg@2 (%)"]) + 1]
    assert below.startswith("  minus base_1") and "+50.0 (+0.0 to +100.0)" in below
    assert "1,500" in lines["tokens (mean)"]
    assert "b: avg@2 (%)" in text


def test_the_terminal_splits_models_into_blocks_that_fit():
    wide, narrow = (plain(comparison(), width=width).splitlines() for width in (500, 60))
    assert max(map(len, wide)) > 60
    blocks = [line.split() for line in narrow if line.split()[:1] in (["base_1"], ["srt"], ["sd_zero"])]
    assert blocks == [["base_1"], ["srt", "&", "more"], ["sd_zero"]]


def test_one_model_has_no_differences():
    for text in (plain(comparison(["only"])), markdown(comparison(["only"]))):
        assert "minus" not in text and "Difference" not in text and "33.3" in text


def test_markdown_is_a_table_of_equal_rows():
    text = markdown(comparison(["a|b", "c"]))
    for block in text.split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({row.replace("\\|", "").count("|") for row in rows}) <= 1
    assert "| a\\|b |" in text and "Difference to a|b" in text and "## b (2 problems)" in text


def test_latex_escapes_and_has_equal_rows():
    text = latex(comparison())
    rows = [line for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert len({row.replace(r"\&", "").count("&") for row in rows}) == 1
    assert r"base\_1 & 33.3 {\scriptsize [0.0, 100.0]}" in text and r"srt \& more & " in text
    assert r"avg@2 (\%)" in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1


def test_csv_has_every_metric_with_full_precision():
    data = comparison()
    rows = list(csv.DictReader(io.StringIO(csv_text(data))))
    assert {row["metric"] for row in rows} == set(data["models"][0]["metrics"])
    models = data["models"]
    parts = [part for model in models for part in (model, *model["by_source"].values())]
    assert len(parts) == 9 and len(rows) == sum(len(part["metrics"]) for part in parts)
    (row,) = (row for row in rows if (row["model"], row["source"], row["metric"]) == ("sd_zero", "b", "avg_at_k"))
    assert float(row["value"]) == data["models"][2]["by_source"]["b"]["metrics"]["avg_at_k"]["value"]
    assert (
        float(row["difference"]) == data["differences"][1]["by_source"]["b"]["metrics"]["avg_at_k"]["difference"]
    )
    assert row["path"] == "models/sd_zero" and row["difference_to"] == "base_1"


def test_a_model_without_problems_of_a_source_has_empty_cells():
    data = comparison()
    del data["models"][1]["by_source"]["a"], data["differences"][0]["by_source"]["a"]
    assert tables_of(data)[1].rows["srt & more"][0].value is None
    assert "| srt & more | - |" in markdown(data) and r"srt \& more & -- &" in latex(data)
    assert "srt & more,models/srt & more,a" not in csv_text(data)
