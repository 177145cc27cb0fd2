"""Several models in one call: their order, their folders, their comparison, and what is not sampled again."""

import csv
import shutil

import pytest

from srt.common.errors import UserError
from srt.common.files import read_json, read_jsonl, write_jsonl
from srt.evaluation.config import label_models, split_models
from srt.report.data import read_run
from srt.report.folders import RunFolders


def test_one_engine_after_the_other_and_one_table(evaluations, capsys):
    weak, strong = evaluations.models.values()
    result = evaluations(weak, strong)
    assert evaluations.started == ["weak", "strong"]
    names = [name for name, _, _ in evaluations.requests]
    assert names == sorted(names, reverse=True)  # never interleaved
    assert [model["label"] for model in result["models"]] == ["weak", "strong"]
    accuracies = [model["avg_at_k"] for model in result["models"]]
    assert accuracies[0] < accuracies[1]
    (change,) = result["differences"]
    assert (change["model"], change["to"], change["problems"]) == ("strong", "weak", 6)
    assert change["metrics"]["avg_at_k"]["difference"] == pytest.approx(accuracies[1] - accuracies[0])
    assert set(change["by_source"]) == {"even", "odd"}
    printed = capsys.readouterr().out
    assert "4 responses to each of 6 problems of" in printed
    assert "minus weak" in printed and "even: avg@4 (%)" in printed


def test_each_model_has_the_files_of_its_own_evaluation(evaluations, tmp_path):
    together = evaluations(*evaluations.models.values())
    shutil.move(tmp_path / "out", tmp_path / "moved")  # where it is not found and reused
    shutil.rmtree(tmp_path / "moved" / "weak")
    alone = evaluations(evaluations.models["strong"], out="alone/strong")
    of_strong = read_json(tmp_path / "moved" / "strong" / "evaluation.json")
    assert of_strong == alone
    assert together["models"][1] == {"label": "strong"} | of_strong


def test_the_files_of_a_comparison(evaluations, tmp_path):
    result = evaluations(*evaluations.models.values())
    with (tmp_path / "out" / "evaluation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    strong = {row["metric"]: row for row in rows if row["model"] == "strong" and row["source"] == ""}
    entry = result["models"][1]["metrics"]["pass_at_2"]
    assert float(strong["pass_at_2"]["value"]) == entry["value"]
    assert [float(strong["pass_at_2"][name]) for name in ("low", "high")] == entry["interval"]
    change = result["differences"][0]["metrics"]["pass_at_2"]
    assert float(strong["pass_at_2"]["difference"]) == change["difference"]
    assert strong["pass_at_2"]["difference_to"] == "weak"
    assert {row["source"] for row in rows} == {"", "even", "odd"}
    markdown = (tmp_path / "out" / "evaluation.md").read_text()
    assert f"| strong | {100 * result['models'][1]['avg_at_k']:.1f} (" in markdown
    latex = (tmp_path / "out" / "evaluation.tex").read_text()
    assert f"strong & {100 * result['models'][1]['avg_at_k']:.1f} {{\\scriptsize [" in latex
    assert latex.count("strong & ") == 3  # all, even, odd


# What is not sampled again ------------------------------------------------------------------------------


def test_a_second_call_samples_nothing(evaluations):
    first = evaluations(*evaluations.models.values())
    assert evaluations(*evaluations.models.values()) == first
    assert evaluations.started == []


@pytest.mark.parametrize("stop_after", [40, 95])
def test_a_stopped_comparison_goes_on_where_it_was(evaluations, tmp_path, stop_after):
    """In the first model (54 requests) or in the second; nothing is sampled twice, and the result is the same."""
    models = list(evaluations.models.values())
    expected = evaluations(*models, out="whole/out")
    shutil.move(tmp_path / "whole", tmp_path / "elsewhere" / "far" / "away")
    evaluations.stop_after = stop_after
    with pytest.raises(KeyboardInterrupt):
        evaluations(*models, out="stopped/out")
    logs = [tmp_path / "stopped" / "out" / name / "attempts.jsonl" for name in evaluations.models]
    graded = sum(len(read_jsonl(log)) for log in logs if log.exists())
    assert 0 < graded <= stop_after and not (tmp_path / "stopped" / "out" / "evaluation.json").exists()
    evaluations.stop_after = None
    assert evaluations(*models, out="stopped/out") == expected
    assert len(evaluations.requests) == 2 * 54 - graded


def test_a_model_that_is_added_is_the_only_one_sampled(evaluations):
    weak, strong = evaluations.models.values()
    evaluations(weak, out="first")
    result = evaluations(weak, strong)
    assert evaluations.started == ["strong"]
    assert [model["label"] for model in result["models"]] == ["weak", "strong"]


def test_more_responses_and_problems_add_to_those_there_are(evaluations):
    weak = evaluations.models["weak"]
    small = evaluations(weak, "num_samples=2", "max_samples=4", "revise=none", out="small")
    large = evaluations(weak, "num_samples=3", out="large")
    keys = [key for _, key, _ in evaluations.requests]
    assert all(key.problem >= 4 or key.response == 2 or key.revision == 0 for key in keys)
    assert sum(key.revision is None for key in keys) == 6 * 4 - 4 * 3
    assert large["problems"] == 6 and large["metrics"]["pass_at_3"]["value"] >= small["avg_at_k"]
    again = evaluations(weak, "num_samples=2", "max_samples=4", "revise=none", out="again")
    assert evaluations.started == [] and again == small


@pytest.mark.parametrize("change", ["seed=1", "temperature=0.7", "top_p=1.0", "max_tokens=40"])
def test_other_sampling_is_sampled(evaluations, change):
    weak = evaluations.models["weak"]
    evaluations(weak, out="first")
    evaluations(weak, change, out="second")
    assert len(evaluations.requests) == 6 * (2 * 4 + 1)


def test_another_model_of_the_same_name_is_sampled(evaluations, tmp_path):
    weak = evaluations.models["weak"]
    evaluations(weak, out="first")
    (tmp_path / "weak" / "generation_config.json").write_text('{"eos_token_id": 2, "do_sample": true}')
    evaluations(weak, out="second")
    assert len(evaluations.requests) == 6 * (2 * 4 + 1)


def test_revisions_are_reused_where_their_phrase_is_the_same(evaluations, tmp_path):
    weak = evaluations.models["weak"]
    evaluations(weak, "revise=oracle", out="oracle")
    result = evaluations(weak, "revise=always", out="always")
    lines = read_jsonl(tmp_path / "always" / "attempts.jsonl")
    right = {(r["problem_idx"], r["response_idx"]) for r in lines if r.get("y_init_correct")}
    sampled = {(key.problem, key.response) for _, key, _ in evaluations.requests}
    assert sampled == {key for key in right if key[1] >= 0}  # the oracle revised these after the other phrase
    phrases = {line["p_r"] for line in lines if line["kind"] == "revision"}
    assert phrases == {"Wait, this response is wrong. Let me correct it."}
    assert result["revisions_r0"] + result["revisions_r1"] == 24


def test_a_torn_line_of_a_growing_log_is_not_reused(evaluations, tmp_path):
    weak = evaluations.models["weak"]
    whole = evaluations(weak, out="first")
    log = tmp_path / "first" / "attempts.jsonl"
    log.write_bytes(log.read_bytes()[:-20])
    assert evaluations(weak, out="second") == whole
    assert len(evaluations.requests) == 1


def test_what_a_larger_evaluation_set_aside_does_not_count_in_a_smaller_one(evaluations):
    """The prompts of the first and the last problem leave no room for a response."""
    problems = read_jsonl(evaluations.folder / "problems.jsonl")
    for number in (0, 5):
        problems[number]["problem"] = "x " * 3000
    write_jsonl(evaluations.folder / "problems.jsonl", problems)
    weak = evaluations.models["weak"]
    assert evaluations(weak, out="large")["set_aside"] == 2 * (4 + 1)
    assert evaluations(weak, "num_samples=2", "max_samples=4", "greedy=0", out="small")["set_aside"] == 2
    assert evaluations.started == []


# Arguments ----------------------------------------------------------------------------------------------


def test_models_and_knobs_are_told_apart(tmp_path):
    (tmp_path / "lr=1e-5").mkdir()
    folder = str(tmp_path / "lr=1e-5")
    assert split_models(["a/b", "seed=1", folder]) == (["a/b", folder], ["seed=1"])
    assert split_models(["seed=1", "--nonsense"]) == ([], ["seed=1", "--nonsense"])


def test_labels_are_as_short_as_they_can_be():
    assert label_models(["Qwen/Qwen3-4B"]) == {"Qwen3-4B": "Qwen/Qwen3-4B"}
    assert list(label_models(["runs/a/stage2", "runs/b/stage2/", "base"])) == ["a-stage2", "b-stage2", "base"]
    with pytest.raises(UserError, match="a/b is named twice"):
        label_models(["a/b", "c", "a/b"])


def test_no_two_models_share_a_label(tmp_path, monkeypatch):
    """A label is the name of the model's folder: the second would take the place of the first."""
    with pytest.raises(UserError, match="x/a-b and a/b would both be called a-b"):
        label_models(["x/a-b", "a/b", "y/b"])
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert list(label_models([".", "../there"])) == ["here", "there"]
    with pytest.raises(UserError, match="is named twice"):
        label_models([".", str(tmp_path / "here")])


def test_arguments_win_over_model_path(evaluations, monkeypatch):
    monkeypatch.setenv("MODEL_PATH", evaluations.models["weak"])
    evaluations(evaluations.models["strong"])
    assert evaluations.started == ["strong"]


def test_several_models_do_not_overwrite_the_evaluation_of_one(evaluations, tmp_path):
    weak, strong = evaluations.models.values()
    evaluations(weak)
    before = (tmp_path / "out" / "evaluation.json").read_bytes()
    with pytest.raises(UserError, match="holds the evaluation of a single model"):
        evaluations(weak, strong)
    assert (tmp_path / "out" / "evaluation.json").read_bytes() == before


def test_one_model_does_not_overwrite_the_evaluation_of_several(evaluations, tmp_path):
    evaluations(*evaluations.models.values())
    before = (tmp_path / "out" / "evaluation.json").read_bytes()
    with pytest.raises(UserError, match="holds the evaluation of several models; choose another OUTPUT_DIR"):
        evaluations(evaluations.models["weak"])
    assert (tmp_path / "out" / "evaluation.json").read_bytes() == before


def test_what_was_sampled_for_several_models_is_reused_in_another_folder(evaluations):
    """As the message above says: for one of them, and for both."""
    both = list(evaluations.models.values())
    first = evaluations(*both)
    alone = evaluations(both[1], out="alone")
    assert evaluations.requests == [] and {"label": "strong"} | alone == first["models"][1]
    assert evaluations(*both, out="again") == first and evaluations.requests == []


def test_a_model_that_cannot_be_read_is_found_before_any_is_sampled(evaluations, tmp_path):
    with pytest.raises(UserError, match="no such checkpoint folder"):
        evaluations(evaluations.models["weak"], str(tmp_path / "missing"))
    assert evaluations.started == []


def test_the_report_reads_the_models_of_a_comparison(evaluations, tmp_path):
    evaluations(*evaluations.models.values())
    stages = read_run(RunFolders("run", evaluation=tmp_path / "out")).stages
    assert [stage.key for stage in stages] == ["strong", "weak"]
