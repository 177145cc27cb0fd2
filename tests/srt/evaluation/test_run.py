"""evaluate.sh from arguments to files: one model, with the real sampler and grader."""

import shutil

import pytest

from srt.collect.consumed import write_consumed
from srt.common.errors import UserError
from srt.common.files import read_json, read_jsonl, write_jsonl
from srt.contract.records import Problem
from srt.evaluation.run import evaluate
from tests.srt.helpers.hub import serve

COMMIT = "0123456789abcdef0123456789abcdef01234567"


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
    assert len(read_jsonl(tmp_path / "out" / "attempts.jsonl")) == 3 * (2 * 2 + 1)  # one is greedy
    (bad,) = read_jsonl(tmp_path / "out" / "bad_records.jsonl")
    assert bad["place"].endswith("line 4")
    assert "sampler: transformers" in capsys.readouterr().out
    assert run_evaluate([*problems, {"problem": "no answer"}]) == result  # again: nothing new is sampled
    assert len(read_jsonl(tmp_path / "out" / "attempts.jsonl")) == 15


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
    with pytest.raises(UserError, match=r"no response could be graded: all 3 samples are set aside in "):
        run_evaluate([{"problem": "word " * 600, "answer": "7"}])  # longer than the model's context


@pytest.mark.parametrize("argv", [[], ["model_path="]])
def test_a_model_must_be_named(argv):
    with pytest.raises(UserError, match="MODEL_PATH is not set"):
        evaluate(argv)


def test_code_problems_without_tests_are_refused(run_evaluate, monkeypatch):
    monkeypatch.setattr("srt.evaluation.run.check_verifier", lambda config: None)
    with pytest.raises(UserError, match="1 of 1 records cannot be used.*no tests"):
        run_evaluate([{"problem": "x", "answer": "7"}], "mode=code")


@pytest.mark.parametrize(
    ("mode", "asked_for"),
    [("math", ("HuggingFaceH4/aime_2024", None, "train")), ("code", ("openai/openai_humaneval", None, "test"))],
)
def test_the_default_data_set_follows_the_mode(mode, asked_for, tiny_checkpoint, tmp_path, monkeypatch):
    class Started(Exception):
        pass

    def start(config, model_path, layout, problems, with_logprobs):
        raise Started

    asked = serve(monkeypatch, tmp_path / "hub", commit=COMMIT)
    monkeypatch.setattr("srt.evaluation.one_model.sampler_from_config", start)
    with pytest.raises(Started):
        # Nothing is judged; the sandbox that is always there spares bubblewrap.
        knobs = [f"mode={mode}", "code_sandbox=rlimits", f"output_dir={tmp_path / 'out'}"]
        evaluate([f"model_path={tiny_checkpoint}", *knobs])
    assert asked == [asked_for]
    run = read_json(tmp_path / "out" / "run.json")
    config = run["config"]
    assert run["revisions"] == {asked_for[0]: COMMIT}
    assert (config["dataset"], config["dataset_split"]) == (asked_for[0], asked_for[2])
