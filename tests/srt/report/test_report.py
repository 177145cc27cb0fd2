"""The report: summary.json, the table and the page, from what the steps of a run really write."""

import json
import re
from contextlib import redirect_stdout
from dataclasses import dataclass
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import numpy as np
import pytest

from opsd.metrics import MetricsLog, open_step_log
from srt.common.errors import UserError
from srt.common.files import JsonlLog, read_json, write_json
from srt.contract.phrases import PHRASE_SETS
from srt.contract.provenance import close_run, open_run
from srt.contract.records import Response, Revision, as_tuple
from srt.evaluate import evaluation_metrics
from srt.report.data import read_run
from srt.report.examples import kl_scale, tinted
from srt.report.plots import metric, smooth
from srt.report.run import report

PHRASES = PHRASE_SETS["qwen"]
SIDES = ("before", "after")
EVIL = "<script>alert(1)</script> & <b onclick='x()'>bold</b>"


def response(problem: int, index: int, correct: bool, text: str = "\\boxed{7}", tokens: int = 5) -> Response:
    return Response(
        problem,
        index,
        f"p{problem}",
        "",
        "3 + 4",
        "7",
        text,
        "",
        tokens,
        correct,
        "7" if correct else "8",
        "",
        "stop",
        0,
    )


def revision(problem: int, index: int, r: int, correct: bool, text: str = "\\boxed{7}") -> Revision:
    return Revision(problem, index, 0, PHRASES.text(r), text, "", 5, correct, "7", "", "stop", 0)


def write_evaluation(folder: Path, right: int, k: int = 8, **settings) -> dict:
    """k responses to each of two problems: all right for the first, `right` of them for the second."""
    responses = [response(p, i, p == 0 or i < right, tokens=4 + 2 * p) for p in range(2) for i in range(k)]
    revisions = [revision(r.problem_idx, r.response_idx, r.r, r.response_idx % 2 == 0) for r in responses]
    config = {"model_path": f"models/{folder.name}", "dataset": "held.jsonl", "mode": "math", "num_samples": k}
    config |= {"seed": 3, "temperature": 1.0} | settings
    identity = {"dataset_fingerprint": "aa", "num_samples": k, "control_phrases": PHRASES.as_dict()} | settings
    open_run(folder, identity, config)
    result = {"model": config["model_path"], "dataset": "held.jsonl"}
    result |= evaluation_metrics(responses, revisions, k, seed=0) | {"set_aside": 0}
    write_json(folder / "evaluation.json", result)
    close_run(folder, result)
    return result


def write_collection(folder: Path, y_init: str = "\\boxed{8}") -> None:
    config = {"model_path": "models/base", "dataset": "train.jsonl", "mode": "math", "seed": 3}
    open_run(folder, {"model": "models/base", "control_phrases": PHRASES.as_dict()}, config)
    tuples = [as_tuple(response(i, 0, False, y_init), revision(i, 0, 0, True)) for i in range(5)]
    write_json(folder / "d_revision.json", tuples)
    results = {
        "responses": 20,
        "revisions": 10,
        "kept": 5,
        "set_aside": 1,
        "tokens": 1234,
        "first_try_accuracy": 0.475,
        "truncated_share": 0.0,
        "wrong_to_right": 0.5,
        "right_to_right": None,
        "seconds": 1.0,
        "tuples": 5,
    }
    close_run(folder, results)


def write_sft(folder: Path) -> None:
    config = {"base_model": "models/base", "data_prefix": None, "seed": 3, "lr_stage1": 1e-4}
    open_run(folder, {"base_model": "models/base"}, config)
    for stage in (1, 2):
        log = [{"step": step, "loss": 1 / step, "epoch": step / 4} for step in range(1, 30)]
        write_json(folder / f"stage{stage}" / "training_log.json", [*log, {"step": 29, "train_loss": 0.2}])


def figures_of_step(step: int, kinds: tuple[int, ...] = (0, 1)) -> dict:
    figures = {"reward": 0.5 + step / 100, "response_tokens": 40.0 - step, "truncated": 0.0, "entropy": 0.1}
    figures |= {"teacher_entropy": 0.1, "logprob_gap": 1e-6, "grad_norm": 1.0, "lr": 1e-4}
    figures["seconds"] = {"update": 0.1}
    return figures | {f"{name}_r{r}": 0.1 for name in ("kl", "top1_agreement") for r in kinds}


def write_distillation(folder: Path, steps: int = 30, token: str = "8") -> None:
    config = {"student_model": "models/srt", "train_dataset": "train.jsonl", "mode": "math", "seed": 3}
    open_run(folder, {"control_phrases": PHRASES.as_dict()}, config | {"val_num_samples": 4})
    log = MetricsLog(folder, 0, "none")
    for step in range(steps):
        validation = {"val_avg_at_k": 0.6, "val_response_tokens": 30.0} if step % 10 == 9 else {}
        log.write(step, figures_of_step(step) | validation)
    log.close()
    samples = JsonlLog(folder / "samples.jsonl")
    for r in (0, 1):
        samples.append(sample(r, ["3", "\n", token], [0.001, 0.0, 2.0 if r == 0 else 0.001]))
    samples.close()


def sample(r: int, tokens: list[str], kl: list[float], step: int = 0) -> dict:
    return {"step": step, "id": f"s{r}", "x": "3 + 4", "r": r, "p_r": PHRASES.text(r), "tokens": tokens, "kl": kl}


def write_run(folder: Path) -> None:
    for right, key in enumerate(("base", "stage1", "srt", "sd_zero")):
        write_evaluation(folder / "evaluation" / key, right=2 * right)
    write_collection(folder / "collection")
    write_sft(folder / "srt")
    write_distillation(folder / "distillation")


def make_report(run: Path, *config: str) -> tuple[dict, str]:
    parts = [f"{part}={run / part}" for part in ("evaluation", "collection", "srt", "distillation")]
    report([*parts, f"output_dir={run / 'out'}", *config])
    return read_json(run / "out" / "summary.json"), (run / "out" / "report.html").read_text(encoding="utf-8")


@dataclass(frozen=True)
class WholeReport:
    folder: Path
    summary: dict
    html: str
    printed: str


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> WholeReport:
    """The report of a run that has every part; its files are only read."""
    folder = tmp_path_factory.mktemp("run")
    write_run(folder)
    with redirect_stdout(StringIO()) as printed:
        summary, html = make_report(folder)
    return WholeReport(folder, summary, html, printed.getvalue())


class Page(HTMLParser):
    """The live elements of a page with their attributes, its headings, and its text."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text, self.headings, self._tag = "", [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._tag = tag

    def handle_endtag(self, tag):
        self._tag = ""

    def handle_data(self, data):
        self.text += data
        if self._tag in ("h2", "figcaption"):
            self.headings.append(data)


# summary.json and the table -----------------------------------------------------------------------------


def test_the_summary_has_the_four_stages_and_their_figures(whole):
    stored = read_json(whole.folder / "evaluation" / "srt" / "evaluation.json")
    summary = whole.summary
    assert list(summary) == ["base", "stage1", "srt", "sd_zero"]
    assert summary["srt"] == {
        "avg_at_8": 0.75,  # 8 of 8 and 4 of 8
        "avg_at_8_interval": stored["avg_at_k_interval"],
        "pass_at_8": 1.0,
        "mean_response_tokens": 5.0,
        "revise_r0": 0.5,
        "revise_r1": 0.5,
    }
    assert summary["base"]["avg_at_8"] == 0.5 and summary["base"]["pass_at_8"] == 0.5
    assert summary["srt"]["avg_at_8_interval"] == [0.5, 1.0]


def test_other_stages_come_after_the_four_under_their_own_names(tmp_path, capsys):
    for name in ("rft", "a $x_1$ <u>", "sd_zero", "base"):
        write_evaluation(tmp_path / "evaluation" / name, right=8)
    summary, html = make_report(tmp_path)
    assert list(summary) == ["base", "sd_zero", "a $x_1$ <u>", "rft"]
    assert "a $x_1$ <u>" in capsys.readouterr().out
    page = Page(html)
    assert page.text.count("a $x_1$ <u>") >= 4  # in the table and in each of the three figures
    assert "u" not in {tag for tag, _ in page.elements}


def test_a_stage_without_revisions_has_none_and_a_dash(tmp_path, capsys):
    folder = tmp_path / "evaluation" / "base"
    write_evaluation(folder, right=8)
    stored = read_json(folder / "evaluation.json")
    assert stored["revise_r0"] is None  # no response was wrong
    summary, _ = make_report(tmp_path)
    assert summary["base"]["revise_r0"] is None
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  base"))
    assert row.split()[-2:] == ["-", "50.0%"]


def test_the_printed_table_is_aligned_and_says_where_the_files_are(whole):
    lines = whole.printed.splitlines()
    start = next(index for index, line in enumerate(lines) if "avg@8" in line)
    table = lines[start : start + 5]
    assert len({len(line) for line in table}) == 1
    assert table[4].split("  ")[1] == "after self-distillation (SD-Zero)"
    assert "87.5%" in table[4] and "75.0 - 100.0" in table[4]
    assert f"report:  {whole.folder / 'out' / 'report.html'}" in lines
    assert f"summary: {whole.folder / 'out' / 'summary.json'}" in lines


def test_the_k_of_the_evaluation_is_in_the_names(tmp_path, capsys):
    write_evaluation(tmp_path / "evaluation" / "base", right=2, k=4)
    summary, _ = make_report(tmp_path)
    assert summary["base"]["avg_at_4"] == 0.75
    write_evaluation(tmp_path / "evaluation" / "srt", right=2, k=2)
    capsys.readouterr()
    summary, _ = make_report(tmp_path)
    assert "avg_at_4" in summary["base"] and "avg_at_2" in summary["srt"]
    printed = capsys.readouterr().out
    assert "avg@k" in printed and "base, k=4" in printed and "after stage 2 (SRT), k=2" in printed


def test_stages_that_were_evaluated_differently_are_named(tmp_path, capsys):
    write_evaluation(tmp_path / "evaluation" / "base", right=2)
    write_evaluation(tmp_path / "evaluation" / "srt", right=4)
    make_report(tmp_path)
    assert "note:" not in capsys.readouterr().out
    write_evaluation(tmp_path / "evaluation" / "sd_zero", right=8, dataset_fingerprint="bb")
    _, html = make_report(tmp_path)
    expected = "dataset_fingerprint (base: aa, after stage 2 (SRT): aa, after self-distillation (SD-Zero): bb)"
    assert expected in capsys.readouterr().out and expected in html


# The page -----------------------------------------------------------------------------------------------


def test_the_page_shows_every_part(whole):
    page = Page(whole.html)
    for heading in (
        "Evaluation",
        "Phase 1: collection of self-revisions",
        "Self-revisions",
        "What made this",
        "Phase 1: supervised fine-tuning",
        "Phase 2: on-policy self-distillation",
        "Where the teacher disagrees",
    ):
        assert heading in page.headings
    figures = [tag for tag, _ in page.elements if tag == "svg"]
    assert len(figures) == 3 + 2 + 9  # the stages, the SFT losses, Phase 2
    for text in ("validation avg@4", "47.5%", PHRASES.wrong, "models/base", "train.jsonl", "seed 3", "r = 0"):
        assert text in page.text, text


def test_what_a_model_wrote_is_text_and_nothing_else(tmp_path):
    write_collection(tmp_path / "collection", y_init=EVIL)
    write_distillation(tmp_path / "distillation", steps=1)
    with open(tmp_path / "distillation" / "samples.jsonl", "a", encoding="utf-8") as file:
        evil = sample(0, [EVIL, '"><img src=x>'], [3.0, 0.0]) | {"x": EVIL, "id": "</title>", "p_r": EVIL}
        file.write(json.dumps(evil) + "\n")
    page = Page(make_report(tmp_path)[1])
    assert EVIL in page.text and '"><img src=x>' in page.text
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "img", "iframe", "object", "embed"}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]


def test_the_page_asks_for_nothing_outside_itself(whole):
    assert "http:" not in whole.html and "https:" not in whole.html and "@import" not in whole.html
    for tag, attributes in Page(whole.html).elements:
        for name in ("href", "xlink:href", "src"):
            assert attributes.get(name, "#").startswith(("#", "data:,")), (tag, attributes)


def test_ids_of_the_figures_do_not_clash(whole):
    page = Page(whole.html)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert ids and len(ids) == len(set(ids))
    used = {attributes["xlink:href"] for tag, attributes in page.elements if tag == "use"}
    assert used and used <= {f"#{name}" for name in ids}


def test_the_same_run_gives_the_same_page(whole):
    assert make_report(whole.folder)[1] == whole.html


def test_invalid_unicode_in_a_response_does_not_stop_the_report(tmp_path):
    write_collection(tmp_path / "collection", y_init="half a \ud83d pair")
    assert "half a &#55357; pair" in make_report(tmp_path)[1]


def test_the_token_with_most_kl_has_the_strongest_tint():
    record = sample(0, ["a", " b", "\n", " c"], [0.0, 0.5, 1.0, 0.001])
    page = Page(tinted(record, scale=1.0))
    tints = [attributes for tag, attributes in page.elements if tag == "b"]
    assert tints == [{"class": "k5", "title": "0.500"}, {"class": "k10", "title": "1.000"}]
    assert "a b\u21b5\n c" in page.text  # a line break is visible when it is tinted


def test_right_responses_alone_are_not_tinted_by_noise():
    record = sample(1, ["a"] * 50, [0.0004] * 50)
    assert not [tag for tag, _ in Page(tinted(record, kl_scale([record]))).elements if tag == "b"]


def test_of_a_long_response_the_stretch_with_most_kl_is_shown():
    kl = [0.0] * 5000
    kl[3000] = 2.0
    text = Page(tinted(sample(0, [f"<{index}>" for index in range(5000)], kl), scale=1.0)).text
    assert "<3000>" in text and "<0>" not in text and "<4999>" not in text
    before, after = (int(re.search(rf"\[([0-9,]+) tokens {side}", text)[1].replace(",", "")) for side in SIDES)
    assert before + after == 4200 and f"<{before}>" in text and f"<{before - 1}>" not in text


def test_examples_sets_how_many_are_shown(tmp_path):
    write_collection(tmp_path / "collection")
    write_distillation(tmp_path / "distillation", steps=0)

    def shown(html: str) -> int:
        return sum(tag == "article" for tag, _ in Page(html).elements)

    # No y_init of the collection was right; the log of Phase 2 has one response of each kind.
    assert shown(make_report(tmp_path, "examples=1")[1]) == 1 + 2
    assert shown(make_report(tmp_path, "examples=4")[1]) == 4 + 2
    html = make_report(tmp_path, "examples=0")[1]
    assert shown(html) == 0 and "Where the teacher disagrees" not in html and "Phase 1" in html


# Curves -------------------------------------------------------------------------------------------------


def test_a_resumed_run_has_every_step_once_with_what_was_trained_last(tmp_path, capsys):
    folder = tmp_path / "distillation"
    write_distillation(folder, steps=30)
    log = MetricsLog(folder, 25, "none")  # killed after step 30, resumed from the checkpoint after step 25
    for step in range(25, 40):
        log.write(step, figures_of_step(step) | {"reward": 0.9})
    log.close()
    samples = open_step_log(folder / "samples.jsonl", 0)
    samples.append(sample(0, ["again"], [1.0]))
    samples.close()
    (folder / "metrics.jsonl").open("a").write('{"step": 40, "rew')  # killed while it wrote a line
    before = (folder / "metrics.jsonl").read_bytes()

    run = read_run(None, None, None, str(folder))
    assert [line["step"] for line in run.steps] == list(range(40))
    assert [line["reward"] for line in run.steps[23:27]] == [0.73, 0.74, 0.9, 0.9]
    assert [line["tokens"] for line in run.samples] == [["again"]]
    assert "40 steps" in make_report(tmp_path)[1]
    assert (folder / "metrics.jsonl").read_bytes() == before  # the run may be going on


@pytest.mark.parametrize("kinds", [(0,), (1,), ()])
def test_a_short_run_without_responses_of_one_kind_is_drawn(tmp_path, kinds):
    log = MetricsLog(tmp_path / "distillation", 0, "none")
    log.write(0, figures_of_step(0, kinds))
    log.close()
    page = Page(make_report(tmp_path)[1])
    assert ("KL to the teacher" in page.headings) == bool(kinds)
    assert "Reward" in page.headings


def test_a_figure_that_is_not_finite_leaves_a_gap(tmp_path):
    log = MetricsLog(tmp_path / "distillation", 0, "none")
    for step in range(3):
        log.write(step, figures_of_step(step) | ({"kl_r0": float("nan")} if step == 1 else {}))
    log.close()
    run = read_run(None, None, None, str(tmp_path / "distillation"))
    assert metric(run.steps, "kl_r0") == [(0, 0.1), (2, 0.1)]
    assert metric(run.steps, "kl_r1", shift=1) == [(1, 0.1), (2, 0.1), (3, 0.1)]


def test_smoothing_keeps_a_constant_and_shifts_nothing():
    assert np.allclose(smooth(np.full(30, 0.7), 7), 0.7)
    line = np.arange(30.0)
    assert np.allclose(smooth(line, 7)[3:-3], line[3:-3])


# What is missing ----------------------------------------------------------------------------------------


def test_a_run_with_only_an_evaluation_gets_a_report_that_says_what_is_left_out(tmp_path, capsys):
    write_evaluation(tmp_path / "evaluation" / "sd_zero", right=8)
    report([f"evaluation={tmp_path / 'evaluation'}", f"output_dir={tmp_path}", f"srt={tmp_path / 'nowhere'}"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out")]
    assert len(lines) == 1
    nowhere = f"SRT={tmp_path / 'nowhere'} is no folder"
    for part in ("base/evaluation.json is missing", "COLLECTION is not set", nowhere):
        assert part in lines[0]
    assert set(read_json(tmp_path / "summary.json")) == {"sd_zero"}
    page = Page((tmp_path / "report.html").read_text())
    assert "Evaluation" in page.headings and not [h for h in page.headings if h.startswith("Phase")]


def test_a_single_evaluation_can_be_named_itself(tmp_path):
    write_evaluation(tmp_path / "eval_my-model", right=8)
    report([f"evaluation={tmp_path / 'eval_my-model'}", f"output_dir={tmp_path / 'out'}"])
    assert set(read_json(tmp_path / "out" / "summary.json")) == {"eval_my-model"}


def test_a_run_without_evaluation_gets_curves_and_an_empty_summary(tmp_path):
    write_distillation(tmp_path / "distillation")
    summary, html = make_report(tmp_path)
    assert summary == {} and "Reward" in Page(html).headings


def test_a_collection_and_an_evaluation_that_are_not_finished_are_said(tmp_path, capsys):
    open_run(tmp_path / "collection", {}, {"model_path": "m", "dataset": "d", "mode": "math", "seed": 0})
    open_run(tmp_path / "evaluation" / "extra", {}, {})
    page = Page(make_report(tmp_path)[1])
    said = capsys.readouterr().out
    assert f"{tmp_path / 'collection'} is not finished" in said and "extra/evaluation.json is missing" in said
    assert not [heading for heading in page.headings if heading.startswith("Phase")]


def test_nothing_at_all_is_an_error_that_says_what_to_set(tmp_path):
    with pytest.raises(UserError, match="nothing to report .*EVALUATION is not set.*set EVALUATION, COLLECTION"):
        report([f"output_dir={tmp_path / 'out'}"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="base/evaluation.json is missing"):
        report([f"evaluation={tmp_path / 'empty'}", f"output_dir={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()


def test_a_broken_or_foreign_evaluation_is_an_error_with_its_path(tmp_path):
    path = tmp_path / "evaluation" / "base" / "evaluation.json"
    write_json(path, {"accuracy": 1})
    with pytest.raises(UserError, match="base/evaluation.json: it has no avg_at_k"):
        make_report(tmp_path)
    path.write_text("{")
    with pytest.raises(UserError, match="base/evaluation.json: not readable as JSON"):
        make_report(tmp_path)


def test_an_output_that_cannot_be_written_is_an_error_with_its_path(tmp_path):
    write_collection(tmp_path / "collection")
    (tmp_path / "out").write_text("a file stands where the folder should be")
    with pytest.raises(UserError, match="summary.json: cannot be written"):
        make_report(tmp_path)
