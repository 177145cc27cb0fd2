"""The metrics of an evaluation, from responses and revisions whose verdicts are known."""

import shutil

import numpy as np
import pytest

from srt.collect.attempts import GradedSample
from srt.collect.consumed import write_consumed
from srt.common.errors import UserError
from srt.common.files import read_json, read_jsonl, write_jsonl
from srt.contract.records import Problem, SampleKey
from srt.evaluate import bootstrap_interval, evaluate, evaluation_metrics
from tests.srt.helpers.hub import serve


def new_response(problem, index, right, tokens=3, finish_reason="stop"):
    return GradedSample(SampleKey(problem, index), 0, tokens, bool(right), finish_reason == "length")


def new_revision(problem, index, right, truncated=False):
    return GradedSample(SampleKey(problem, index, 0), 0, 2, bool(right), truncated)


def responses_of(rewards):
    return [new_response(p, i, right) for p, row in enumerate(rewards) for i, right in enumerate(row)]


COMMIT = "0123456789abcdef0123456789abcdef01234567"
REWARDS = [[1, 1, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_avg_and_pass_at_k():
    metrics = evaluation_metrics(responses_of(REWARDS), [], k=4, seed=0)
    assert metrics["avg_at_k"] == pytest.approx((1 + 0.25 + 0) / 3)
    assert metrics["pass_at_k"] == pytest.approx(2 / 3)
    assert (metrics["problems"], metrics["k"]) == (3, 4)


def test_problems_count_alike_when_a_sample_of_one_was_set_aside():
    metrics = evaluation_metrics(responses_of([[1, 1, 1], [0]]), [], k=3, seed=0)
    assert metrics["avg_at_k"] == 0.5


def test_the_order_of_the_responses_does_not_matter():
    responses = responses_of(REWARDS)
    metrics, turned = (evaluation_metrics(r, [], k=4, seed=0) for r in (responses, responses[::-1]))
    for name in ("avg_at_k", "pass_at_k", "mean_response_tokens"):
        assert metrics[name] == pytest.approx(turned[name])


def test_length_and_truncation():
    responses = [new_response(0, index, 1, tokens=tokens) for index, tokens in enumerate((2, 3, 4))]
    responses.append(new_response(0, 3, 0, tokens=11, finish_reason="length"))
    metrics = evaluation_metrics(responses, [], k=4, seed=0)
    assert metrics["mean_response_tokens"] == 5  # not the median, 3.5
    assert metrics["truncated"] == 0.25


def test_revisions_are_split_by_the_reward_of_the_response_they_revise():
    revisions = [
        *(new_revision(0, i, right) for i, right in enumerate([1, 1, 1, 0])),  # of right responses
        *(new_revision(1, i, right) for i, right in enumerate([1, 0, 0, 0])),  # of wrong ones, except the third
    ]
    metrics = evaluation_metrics(responses_of(REWARDS), revisions, k=4, seed=0)
    assert (metrics["revisions_r0"], metrics["revisions_r1"]) == (3, 5)
    assert metrics["revise_r0"] == pytest.approx(1 / 3)
    assert metrics["revise_r1"] == pytest.approx(3 / 5)
    assert metrics["revisions_truncated_r0"] == metrics["revisions_truncated_r1"] == 0
    cut = [new_revision(0, 0, 0, truncated=True), new_revision(0, 1, 1), new_revision(1, 0, 0, truncated=True)]
    metrics = evaluation_metrics(responses_of(REWARDS), cut, k=4, seed=0)
    assert (metrics["revisions_truncated_r0"], metrics["revisions_truncated_r1"]) == (1.0, 0.5)


def test_no_revisions_is_not_an_accuracy_of_zero():
    metrics = evaluation_metrics(responses_of(REWARDS), [], k=4, seed=0)
    assert metrics["revise_r0"] is None and metrics["revise_r1"] is None
    assert metrics["revisions_truncated_r0"] is None


# The interval -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_holds_the_mean_and_stays_within_0_and_1(seed):
    rewards = np.random.default_rng(seed).integers(0, 2, size=(40, 8))
    metrics = evaluation_metrics(responses_of(rewards), [], k=8, seed=seed)
    low, high = metrics["avg_at_k_interval"]
    assert 0 <= low < metrics["avg_at_k"] < high <= 1


def test_the_interval_depends_on_the_seed():
    values = np.random.default_rng(0).random(50)
    assert bootstrap_interval(values, 1) == bootstrap_interval(values, 1)
    assert bootstrap_interval(values, 1) != bootstrap_interval(values, 2)


def test_the_interval_is_that_of_the_mean_over_problems():
    """With many problems it approaches the normal interval, mean +- 1.96 standard errors."""
    values = np.random.default_rng(0).random(400)
    low, high = bootstrap_interval(values, 0)
    error = values.std() / len(values) ** 0.5
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_responses_to_one_problem_are_not_independent():
    """Eight equal responses per problem are no more evidence than one."""
    once = evaluation_metrics(responses_of([[i % 2] for i in range(40)]), [], k=1, seed=0)
    eight = evaluation_metrics(responses_of([[i % 2] * 8 for i in range(40)]), [], k=8, seed=0)
    assert eight["avg_at_k_interval"] == once["avg_at_k_interval"]


def test_equal_values_have_an_interval_of_width_zero():
    assert bootstrap_interval(np.ones(10), 0) == (1.0, 1.0)


# The step -----------------------------------------------------------------------------------------------


@pytest.fixture
def run_evaluate(tiny_checkpoint, tmp_path):
    def run(problems, *config):
        write_jsonl(tmp_path / "problems.jsonl", problems)
        evaluate(
            [
                f"model_path={tiny_checkpoint}",
                f"dataset={tmp_path / 'problems.jsonl'}",
                "sampler=transformers",
                f"output_dir={tmp_path / 'out'}",
                "max_tokens=6",
                "num_samples=2",
                "grading_workers=1",
                *config,
            ]
        )
        return read_json(tmp_path / "out" / "evaluation.json")

    return run


def test_an_evaluation_of_a_model_and_its_files(run_evaluate, tmp_path, capsys):
    problems = [{"problem": f"x = {n}", "answer": "7"} for n in range(3)]
    result = run_evaluate([*problems, {"problem": "no answer"}])
    assert (result["problems"], result["k"], result["revisions_r0"]) == (3, 2, 6)
    assert result["avg_at_k"] == 0 and result["revise_r1"] is None and result["set_aside"] == 0
    assert len(read_jsonl(tmp_path / "out" / "attempts.jsonl")) == 12
    (bad,) = read_jsonl(tmp_path / "out" / "bad_records.jsonl")
    assert bad["place"].endswith("line 4")
    assert "sampler: transformers" in capsys.readouterr().out
    assert run_evaluate([*problems, {"problem": "no answer"}]) == result  # again: nothing new is sampled
    assert len(read_jsonl(tmp_path / "out" / "attempts.jsonl")) == 12


def test_problems_that_the_checkpoint_was_trained_on_are_named(run_evaluate, tiny_checkpoint, tmp_path, capsys):
    trained = shutil.copytree(tiny_checkpoint, tmp_path / "trained")
    write_consumed(trained / "srt_problems.jsonl", [Problem("s", "X =  2", "7"), Problem("other", "x = 9", "7")])
    write_consumed(trained / "distill_problems.jsonl", [Problem("d", "x = 0", "7"), Problem("e", "x = 2", "7")])
    problems = [{"id": f"p{n}", "problem": f"x = {n}", "answer": "7"} for n in range(3)]
    result = run_evaluate(problems, f"model_path={trained}", "revise=0")
    assert result["trained_on"] == {"Phase 1": 1, "Phase 2": 2}
    printed = capsys.readouterr().out
    assert (
        "warning: 1 of 3 problems are also training problems of Phase 1 of" in printed and "first: p2)" in printed
    )
    assert (
        "warning: 2 of 3 problems are also training problems of Phase 2 of" in printed and "first: p0)" in printed
    )
    run_evaluate(problems, "revise=0", f"output_dir={tmp_path / 'base'}")
    assert "trained_on" not in read_json(tmp_path / "base" / "evaluation.json")


def test_an_evaluation_without_any_verdict_is_one_sentence(run_evaluate):
    with pytest.raises(UserError, match=r"no response could be graded: all 2 samples are set aside in "):
        run_evaluate([{"problem": "word " * 600, "answer": "7"}])  # longer than the model's context


@pytest.mark.parametrize("argv", [[], ["model_path="]])
def test_a_model_must_be_named(argv):
    with pytest.raises(UserError, match="MODEL_PATH is not set"):
        evaluate(argv)


def test_code_problems_without_tests_are_refused(run_evaluate, monkeypatch):
    monkeypatch.setattr("srt.evaluate.check_verifier", lambda config: None)
    with pytest.raises(UserError, match="1 of 1 records cannot be used.*no tests"):
        run_evaluate([{"problem": "x", "answer": "7"}], "mode=code")


@pytest.mark.parametrize(
    ("mode", "asked_for"),
    [("math", ("HuggingFaceH4/aime_2024", None, "train")), ("code", ("openai/openai_humaneval", None, "test"))],
)
def test_the_default_data_set_follows_the_mode(mode, asked_for, tiny_checkpoint, tmp_path, monkeypatch):
    class Started(Exception):
        pass

    def start(config, model_path, layout, problems):
        raise Started

    asked = serve(monkeypatch, tmp_path / "hub", commit=COMMIT)
    monkeypatch.setattr("srt.evaluate.check_verifier", lambda config: None)
    monkeypatch.setattr("srt.evaluate.sampler_from_config", start)
    with pytest.raises(Started):
        evaluate([f"model_path={tiny_checkpoint}", f"mode={mode}", f"output_dir={tmp_path / 'out'}"])
    assert asked == [asked_for]
    run = read_json(tmp_path / "out" / "run.json")
    config = run["config"]
    assert run["revisions"] == {asked_for[0]: COMMIT}
    assert (config["dataset"], config["dataset_split"]) == (asked_for[0], asked_for[2])
