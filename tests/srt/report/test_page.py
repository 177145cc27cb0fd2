"""The page: every part, nothing but text from models, nothing from outside."""

import json

from tests.srt.helpers.report_runs import PHRASES, Page, make_report, sample, write_collection, write_distillation

EVIL = "<script>alert(1)</script> & <b onclick='x()'>bold</b>"


def test_the_page_shows_every_part(whole):
    page = Page(whole.html)
    for heading in (
        "Evaluation",
        "Phase 1: collection of self-revisions",
        "Self-revisions",
        "Provenance",
        "Phase 1: supervised fine-tuning",
        "Phase 2: on-policy self-distillation",
        "Where the teacher disagrees",
    ):
        assert heading in page.headings
    plots = [tag for tag, _ in page.elements if tag == "svg"]
    assert len(plots) == 3 + 2 + 9  # the stages, the SFT losses, Phase 2
    for text in ("validation avg@4", "47.5%", PHRASES.wrong, "models/base", "train.jsonl", "seed 3", "r = 0"):
        assert text in page.text, text


def test_model_outputs_are_text_and_never_markup(tmp_path):
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


def test_the_page_is_self_contained(whole):
    assert "http:" not in whole.html and "https:" not in whole.html and "@import" not in whole.html
    for tag, attributes in Page(whole.html).elements:
        for name in ("href", "xlink:href", "src"):
            assert attributes.get(name, "#").startswith(("#", "data:,")), (tag, attributes)


def test_ids_of_the_plots_do_not_clash(whole):
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
