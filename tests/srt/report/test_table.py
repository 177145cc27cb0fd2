"""summary.json and the table of evaluated stages."""

from srt.common.files import read_json, write_json
from tests.srt.helpers.report_runs import Page, make_report, write_evaluation


def test_the_summary_has_the_four_stages_and_their_metrics(whole):
    stored = read_json(whole.folder / "evaluation" / "srt" / "evaluation.json")
    summary = whole.summary
    assert list(summary) == ["base", "stage1", "srt", "sd_zero"]
    assert summary["srt"] == {
        "avg_at_8": 0.75,  # 8 of 8 and 4 of 8
        "avg_at_8_interval": stored["avg_at_k_interval"],
        "pass_at_8": 1.0,
        "mean_response_tokens": 5.0,
        "truncated": 0.0,
        "revise_r0": 0.5,
        "revise_r1": 0.5,
        "revisions_truncated_r0": 0.0,
        "revisions_truncated_r1": 0.0,
    }
    assert summary["base"]["avg_at_8"] == 0.5 and summary["base"]["pass_at_8"] == 0.5
    assert summary["srt"]["avg_at_8_interval"] == [0.5, 1.0]


def test_other_stages_follow_the_four_under_their_own_names(tmp_path, capsys):
    for name in ("rft", "a $x_1$ <u>", "sd_zero", "base"):
        write_evaluation(tmp_path / "evaluation" / name, correct=8)
    summary, html = make_report(tmp_path)
    assert list(summary) == ["base", "sd_zero", "a $x_1$ <u>", "rft"]
    assert "a $x_1$ <u>" in capsys.readouterr().out
    page = Page(html)
    assert page.text.count("a $x_1$ <u>") >= 4  # in the table and in each of the three plots
    assert "u" not in {tag for tag, _ in page.elements}


def test_a_stage_without_revisions_has_none_in_the_summary_and_a_dash_in_the_table(tmp_path, capsys):
    folder = tmp_path / "evaluation" / "base"
    write_evaluation(folder, correct=8)
    stored = read_json(folder / "evaluation.json")
    assert stored["revise_r0"] is None  # no response was wrong
    summary, _ = make_report(tmp_path)
    assert summary["base"]["revise_r0"] is None
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  base"))
    assert row.split()[-4:] == ["-", "-", "50.0%", "0.0%"]


def test_the_printed_table_is_aligned_and_followed_by_the_paths(whole):
    lines = whole.printed.splitlines()
    start = next(index for index, line in enumerate(lines) if "avg@8" in line)
    table = lines[start : start + 5]
    assert len({len(line) for line in table}) == 1
    assert table[4].split("  ")[1] == "after self-distillation (SD-Zero)"
    assert "87.5%" in table[4] and "75.0 - 100.0" in table[4]
    assert f"report:  {whole.folder / 'out' / 'report.html'}" in lines
    assert f"summary: {whole.folder / 'out' / 'summary.json'}" in lines


def test_the_names_contain_the_k_of_the_evaluation(tmp_path, capsys):
    write_evaluation(tmp_path / "evaluation" / "base", correct=2, k=4)
    summary, _ = make_report(tmp_path)
    assert summary["base"]["avg_at_4"] == 0.75
    write_evaluation(tmp_path / "evaluation" / "srt", correct=2, k=2)
    capsys.readouterr()
    summary, _ = make_report(tmp_path)
    assert "avg_at_4" in summary["base"] and "avg_at_2" in summary["srt"]
    printed = capsys.readouterr().out
    assert "avg@k" in printed and "base, k=4" in printed and "after stage 2 (SRT), k=2" in printed


def test_truncated_shares_and_problems_of_the_training_are_in_the_table_and_on_the_page(tmp_path, capsys):
    folder = tmp_path / "evaluation" / "srt"
    write_evaluation(folder, correct=2)
    cut = {"truncated": 0.125, "revisions_truncated_r0": 0.25, "revisions_truncated_r1": 0.375}
    stored = read_json(folder / "evaluation.json") | cut | {"trained_on": {"Phase 1": 2}, "set_aside": 3}
    write_json(folder / "evaluation.json", stored)
    summary, html = make_report(tmp_path)
    assert summary["srt"].items() >= cut.items()
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if line.startswith("  after stage 2"))
    assert row.split()[-5:] == ["12.5%", "50.0%", "25.0%", "50.0%", "37.5%"]
    note = "after stage 2 (SRT) was trained on some of its 2 problems (2 in Phase 1)"
    for text in (note, "after stage 2 (SRT): samples without a verdict, which do not count: 3"):
        assert f"note: {text}" in printed and f"Note: {text}." in Page(html).text
    del stored["revisions_truncated_r0"]  # of an earlier version
    write_json(folder / "evaluation.json", stored)
    assert make_report(tmp_path)[0]["srt"]["revisions_truncated_r0"] is None


def test_differing_evaluation_settings_are_reported(tmp_path, capsys):
    write_evaluation(tmp_path / "evaluation" / "base", correct=2)
    write_evaluation(tmp_path / "evaluation" / "srt", correct=4)
    make_report(tmp_path)
    assert "note:" not in capsys.readouterr().out
    write_evaluation(tmp_path / "evaluation" / "sd_zero", correct=8, dataset_fingerprint="bb")
    _, html = make_report(tmp_path)
    expected = "dataset_fingerprint (base: aa, after stage 2 (SRT): aa, after self-distillation (SD-Zero): bb)"
    assert expected in capsys.readouterr().out and expected in html
