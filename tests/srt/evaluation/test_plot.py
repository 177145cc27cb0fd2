"""The plot of accuracy against tokens."""

import xml.etree.ElementTree as ET

import pytest

from srt.evaluation.plot import accuracy_by_tokens, write_plot
from tests.srt.helpers.evaluated import metrics_of_samples, new_response, new_revision


def comparison(*labels, revised=True, mode="math") -> dict:
    models = []
    for index, label in enumerate(labels):
        samples = [
            new_response(p, i, (p + i + index) % 3 > 0, tokens=100 + index) for p in range(4) for i in (0, 1)
        ]
        if revised:
            samples += [new_revision(p, i, True, tokens=50) for p in range(4) for i in (0, 1)]
        models.append({"label": label, "model": label} | metrics_of_samples(samples, k=2, mode=mode))
    return {"dataset": "d", "k": 2, "models": models, "differences": []}


def test_a_vote_among_k_costs_k_responses_and_a_revision_its_own_tokens():
    (model,) = comparison("a")["models"]
    curves = accuracy_by_tokens(model, 2)
    metrics = model["metrics"]
    assert [point["tokens"] for point in curves["majority"]] == [100, 200]
    assert curves["majority"][1]["accuracy"] == metrics["majority_at_2"]["value"]
    assert [point["tokens"] for point in curves["pass"]] == [100, 200]
    (revised,), (better,) = curves["revised"], curves["better of both"]
    assert (revised["tokens"], revised["accuracy"], revised["interval"]) == (150, 1.0, [1.0, 1.0])
    assert (better["tokens"], better["accuracy"]) == (150, 1.0)
    assert curves["response"][0]["accuracy"] == metrics["avg_at_k"]["value"]


def test_what_a_model_does_not_have_is_left_out():
    (model,) = comparison("a", revised=False, mode="code")["models"]
    assert set(accuracy_by_tokens(model, 2)) == {"pass", "response"}


@pytest.mark.parametrize("revised", [True, False])
def test_the_plot_names_every_model_and_kind_of_curve(tmp_path, revised):
    data = comparison("base_$1", "srt", revised=revised)
    svg, png = write_plot(tmp_path, data)
    text = "".join(ET.fromstring(svg.read_text()).itertext())
    assert "base_$1" in text and "srt" in text  # a name is no formula
    assert "majority of 1, 2, ... responses" in text and "one response" in text
    assert ("better of response and revision" in text) == revised
    assert "tokens generated per answer (log scale)" in text and "mathdefault" not in text
    assert png.read_bytes().startswith(b"\x89PNG")
    before = svg.read_bytes(), png.read_bytes()
    write_plot(tmp_path, data)
    assert (svg.read_bytes(), png.read_bytes()) == before
