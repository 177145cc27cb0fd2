"""Example responses on the page, and the tints of their tokens."""

import re

from srt.report.examples import kl_scale, tinted_response
from tests.srt.helpers.report_runs import Page, make_report, sample, write_collection, write_distillation

SIDES = ("before", "after")


def test_the_token_with_the_most_kl_has_the_strongest_tint():
    record = sample(0, ["a", " b", "\n", " c"], [0.0, 0.5, 1.0, 0.001])
    page = Page(tinted_response(record, scale=1.0))
    tints = [attributes for tag, attributes in page.elements if tag == "b"]
    assert tints == [{"class": "k5", "title": "0.500"}, {"class": "k10", "title": "1.000"}]
    assert "a b\u21b5\n c" in page.text  # a line break is visible when it is tinted


def test_correct_responses_alone_are_not_tinted_by_noise():
    record = sample(1, ["a"] * 50, [0.0004] * 50)
    assert not [tag for tag, _ in Page(tinted_response(record, kl_scale([record]))).elements if tag == "b"]


def test_a_long_response_is_cut_to_the_window_with_the_most_kl():
    kl = [0.0] * 5000
    kl[3000] = 2.0
    text = Page(tinted_response(sample(0, [f"<{index}>" for index in range(5000)], kl), scale=1.0)).text
    assert "<3000>" in text and "<0>" not in text and "<4999>" not in text
    before, after = (int(re.search(rf"\[([0-9,]+) tokens {side}", text)[1].replace(",", "")) for side in SIDES)
    assert before + after == 4200 and f"<{before}>" in text and f"<{before - 1}>" not in text


def test_the_knob_examples_sets_how_many_are_shown(tmp_path):
    write_collection(tmp_path / "collection")
    write_distillation(tmp_path / "distillation", steps=0)

    def shown(html: str) -> int:
        return sum(tag == "article" for tag, _ in Page(html).elements)

    # No y_init of the collection is correct; the log of Phase 2 has one response for each reward.
    assert shown(make_report(tmp_path, "examples=1")[1]) == 1 + 2
    assert shown(make_report(tmp_path, "examples=4")[1]) == 4 + 2
    html = make_report(tmp_path, "examples=0")[1]
    assert shown(html) == 0 and "Where the teacher disagrees" not in html and "Phase 1" in html
