"""REVISE: which responses are revised, after which phrase, and what is then compared."""

import shutil

import pytest

from srt.collect.collector import GREEDY
from srt.common.errors import UserError
from srt.common.files import read_jsonl
from srt.contract.phrases import PHRASE_SETS
from srt.contract.records import SampleKey
from srt.evaluation.revising import least_confident
from tests.srt.helpers.evaluated import new_response, new_revision

QWEN = PHRASE_SETS["qwen"]


def revisions_in(folder):
    """key of the response -> (its reward, the phrase after which it was revised)."""
    lines = read_jsonl(folder / "attempts.jsonl")
    keys = [(line["problem_idx"], line["response_idx"]) for line in lines]
    reward = {k: line["y_init_correct"] for k, line in zip(keys, lines, strict=True) if line["kind"] == "response"}
    revised = [(k, line) for k, line in zip(keys, lines, strict=True) if line["kind"] == "revision"]
    return {key: (int(reward[key]), line["p_r"]) for key, line in revised}


@pytest.mark.parametrize("mode", ["oracle", "1", "true"])
def test_the_oracle_knows_the_reward(evaluations, tmp_path, mode):
    evaluations(evaluations.models["weak"], f"revise={mode}")
    revised = revisions_in(tmp_path / "out")
    assert len(revised) == 24
    assert set(revised.values()) == {(0, QWEN.wrong), (1, QWEN.right)}


def test_always_revises_all_after_the_phrase_of_a_wrong_response(evaluations, tmp_path):
    result = evaluations(evaluations.models["weak"], "revise=always")
    revised = revisions_in(tmp_path / "out")
    assert len(revised) == 24
    assert set(revised.values()) == {(0, QWEN.wrong), (1, QWEN.wrong)}
    lines = read_jsonl(tmp_path / "out" / "attempts.jsonl")
    after = [line["y_revised_correct"] for line in lines if line["kind"] == "revision"]
    assert result["metrics"]["accuracy_after"]["value"] == pytest.approx(sum(after) / 24)
    assert result["metrics"]["better_of_both"]["value"] >= result["metrics"]["accuracy_after"]["value"]


@pytest.mark.parametrize("mode", ["none", "0", "false"])
def test_none_revises_none(evaluations, tmp_path, mode):
    result = evaluations(evaluations.models["weak"], f"revise={mode}")
    assert revisions_in(tmp_path / "out") == {}
    assert "accuracy_after" not in result["metrics"]


def test_confidence_revises_the_share_with_the_lowest_log_probs(evaluations, tmp_path):
    evaluations.logprob_of = lambda request: -float(request.seed % 97)
    weak = evaluations.models["weak"]
    result = evaluations(weak, "revise=confidence", "revise_share=0.25")
    lines = [line for line in read_jsonl(tmp_path / "out" / "attempts.jsonl") if line["kind"] == "response"]
    lines = [line for line in lines if line["response_idx"] != GREEDY]
    by_confidence = sorted(lines, key=lambda line: line["y_init_logprob"] / line["y_init_tokens"])
    lowest = {(line["problem_idx"], line["response_idx"]) for line in by_confidence[:6]}
    revised = revisions_in(tmp_path / "out")
    assert set(revised) == lowest and {phrase for _, phrase in revised.values()} == {QWEN.wrong}
    assert result["metrics"]["revised"]["value"] == 0.25
    assert evaluations(weak, "revise=confidence", "revise_share=0.25") == result
    assert evaluations.started == []


def test_confidence_counts_only_what_it_chose(evaluations):
    """The revisions of another share are in the log from which it continues."""
    weak = evaluations.models["weak"]
    evaluations(weak, "revise=always", "logprobs=all", out="always")
    result = evaluations(weak, "revise=confidence", "revise_share=0.5", out="confidence")
    assert evaluations.started == [] and result["metrics"]["revised"]["value"] == 0.5


def test_confidence_chooses_alike_beside_an_evaluation_without_all_log_probs(evaluations, tmp_path):
    """By default only the first response to each problem has one: the others are sampled again with theirs."""
    evaluations.logprob_of = lambda request: -float(request.seed % 97)
    weak = evaluations.models["weak"]
    alone = evaluations(weak, "revise=confidence", "revise_share=0.25", out="alone")
    expected = revisions_in(tmp_path / "alone")
    shutil.move(tmp_path / "alone", tmp_path / "elsewhere" / "far" / "away")
    evaluations(weak, "revise=always", out="always")
    result = evaluations(weak, "revise=confidence", "revise_share=0.25", out="beside")
    assert expected.keys() <= revisions_in(tmp_path / "beside").keys() and result == alone
    sampled = [key for _, key, _ in evaluations.requests if key.revision is None]
    assert len(sampled) == 6 * 3  # of four responses to each problem


def test_the_entropy_of_all_responses_is_not_that_of_the_first_ones(evaluations):
    evaluations.logprob_of = lambda request: -float(request.seed % 97)
    weak = evaluations.models["weak"]
    first = evaluations(weak, out="first")
    every = evaluations(weak, "logprobs=all", out="all")
    assert every["metrics"]["entropy"]["value"] != first["metrics"]["entropy"]["value"]


@pytest.mark.parametrize("given", ["none", "0", "first"])
def test_confidence_needs_all_log_probs(evaluations, given):
    with pytest.raises(UserError, match="REVISE=confidence needs LOGPROBS=all"):
        evaluations(evaluations.models["weak"], "revise=confidence", f"logprobs={given}")


def test_the_least_confident_are_those_with_the_lowest_mean():
    samples = [new_response(0, 0, 1, tokens=10, logprob=-5.0), new_response(0, 1, 1, tokens=2, logprob=-4.0)]
    samples += [new_response(1, 0, 0, tokens=4, logprob=-1.0), new_response(1, 1, 0, logprob=None)]
    samples += [new_response(1, GREEDY, 0, logprob=-100.0), new_revision(0, 0, 1)]
    assert least_confident(samples, 0.5) == {SampleKey(1, 1), SampleKey(0, 1)}
    assert least_confident(samples, 0) == frozenset()
    assert len(least_confident(samples, 1)) == 4
