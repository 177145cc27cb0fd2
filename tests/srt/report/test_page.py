"""The page: every part, nothing but text from models, nothing from outside."""

import base64
import hashlib
import json
import re

from tests.srt.helpers.report_logs import collection_attempts, write_attempts
from tests.srt.helpers.report_runs import PHRASES, Page, make_report, sample, write_collection, write_distillation

EVIL = "<script>alert(1)</script> & <b onclick='x()'>bold</b> <!-- "
SECTIONS = (
    "Warnings of self-distillation",
    "Evaluation",
    "The same problem, stage by stage",
    "Phase 1: collection of self-revisions",
    "Attempts",
    "Phase 1: supervised fine-tuning",
    "Phase 2: on-policy self-distillation",
    "Where the teacher disagrees",
    "Provenance",
)


def test_the_page_shows_every_part(whole):
    page = whole.page
    assert [heading for heading in page.headings if heading in SECTIONS] == list(SECTIONS)
    assert sum(tag == "svg" for tag, _ in page.elements) == 3  # of the stages
    for text in ("validation avg@4", "47.5%", PHRASES.wrong, "models/base", "train.jsonl", "seed 3", "r = 0"):
        assert text in page.texts, text
    for text in (
        "keeps only 33.7%",
        "<b>reward fell</b>",
        "Hardware: ",
        " UTC, finished 20",
        "1,234",
        "revise_correct=0, right_share=null",
    ):
        assert text in page.text, text


def test_every_figure_has_data_and_everything_that_has_data_has_a_figure(whole):
    page = whole.page
    charts = [attributes["data-chart"] for _, attributes in page.elements if "data-chart" in attributes]
    assert sorted(charts) == sorted(page.charts) and len(charts) > 10
    for name, chart in page.charts.items():
        assert chart["series"], name
        for series in chart["series"]:
            assert len(series["x"]) == len(series["y"]) > 0
            assert all(isinstance(value, int | float) for value in series["x"] + series["y"])
    pictures = [attributes for _, attributes in page.elements if "data-picture" in attributes]
    assert len(pictures) == 3 and all(len(json.loads(picture["data-rows"])) == 5 for picture in pictures)
    widgets = [attributes["data-widget"] for _, attributes in page.elements if "data-widget" in attributes]
    assert sorted([*widgets, "examples"]) == sorted(page.data["widgets"])


def test_model_outputs_are_text_and_never_markup(tmp_path):
    write_collection(tmp_path / "collection", y_init=EVIL)
    write_attempts(tmp_path / "collection", collection_attempts(4, y_init=EVIL))
    write_distillation(tmp_path / "distillation", steps=1)
    with open(tmp_path / "distillation" / "samples.jsonl", "a", encoding="utf-8") as file:
        evil = sample(0, [EVIL, '"><img src=x>'], [3.0, 0.0]) | {"x": EVIL, "id": "</title>", "p_r": EVIL}
        file.write(json.dumps(evil) + "\n")
    html = make_report(tmp_path)[1]
    page = Page(html)
    shown = page.data["widgets"]["samples"]["run"][-1]
    assert shown["tokens"] == [EVIL, '"><img src=x>'] and shown["p_r"] == EVIL
    assert any(attempt["y"] == EVIL for attempt in page.data["widgets"]["attempts"]["run"]["attempts"])
    tags = {tag for tag, _ in page.elements}
    assert (
        not tags & {"img", "iframe", "object", "embed"} and "alert(1)</script>" not in html and "<!--" not in html
    )
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]


def test_only_the_scripts_of_the_page_may_run(whole):
    policy = next(a["content"] for tag, a in whole.page.elements if tag == "meta" and "http-equiv" in a)
    allowed = re.search(r"script-src ([^;]*)", policy)[1].split()
    hashes = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in whole.page.code]
    assert allowed == [f"'sha256-{value}'" for value in hashes] and len(hashes) > 5
    assert policy.startswith("default-src 'none';") and "connect-src" not in policy
    for tag, attributes in whole.page.elements:
        if tag == "script":
            assert "src" not in attributes and attributes.get("type", "application/json") == "application/json"


def test_the_page_is_self_contained(whole):
    assert "@import" not in whole.html and not re.search(r"url\((?!#)", whole.html)
    for tag, attributes in Page(whole.html).elements:
        for name in ("href", "xlink:href", "src", "action", "data"):
            assert attributes.get(name, "#").startswith(("#", "data:,")), (tag, attributes)


def test_the_library_is_inlined_with_its_license(whole):
    assert "uPlot" in whole.page.code[0] and "Copyright (c) 2022 Leon Sorokin" in whole.page.code[0]


def test_ids_of_the_plots_do_not_clash(whole):
    page = whole.page
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert ids and len(ids) == len(set(ids))
    used = {attributes["xlink:href"] for tag, attributes in page.elements if tag == "use"}
    assert used and used <= {f"#{name}" for name in ids}


def test_plots_are_in_the_colors_of_the_page(whole):
    svgs = re.findall(r"<svg viewBox.*?</svg>", whole.html, re.DOTALL)
    assert len(svgs) == 3
    assert all("var(--ink)" in svg and not re.search(r": #[0-9a-f]{6}", svg) for svg in svgs)


def test_the_same_run_gives_the_same_page(whole):
    assert make_report(whole.folder)[1] == whole.html


def test_invalid_unicode_in_a_response_does_not_stop_the_report(tmp_path):
    write_collection(tmp_path / "collection")
    write_attempts(tmp_path / "collection", collection_attempts(4, y_init="half a \ud83d pair"))
    page = Page(make_report(tmp_path)[1])
    attempts = page.data["widgets"]["attempts"]["run"]["attempts"]
    assert any(attempt["y"] == "half a \ufffd pair" for attempt in attempts)
