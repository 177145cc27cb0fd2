"""The full pipeline on a tiny model, through the scripts: what every artifact must contain."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from srt.collect.collector import GREEDY
from srt.collect.split import metadata_path
from srt.common.files import read_jsonl
from srt.contract.phrases import PHRASE_SETS
from srt.contract.records import unpack_ids
from tests.end_to_end.conftest import Run
from tests.end_to_end.toy_task import MAX_TOKENS

QWEN = PHRASE_SETS["qwen"]


def read(path: Path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def tuples(full_run) -> list[dict]:
    return read(full_run.folder / "collection" / "d_revision.json")


@pytest.fixture(scope="module")
def stages(full_run) -> list[list[dict]]:
    return [read(full_run.folder / "train_data" / f"little_stage{stage}.json") for stage in (1, 2)]


def checkpoints(run: Run) -> dict[str, Path]:
    srt = run.folder / "srt"
    return {"stage1": srt / "stage1", "stage2": srt / "stage2", "sd_zero": run.folder / "sd_zero" / "student"}


# Collection -----------------------------------------------------------------------------------------------


def test_d_revision_has_the_target_number_of_tuples_with_every_field(tuples):
    contract = {
        "id",
        "x",
        "ground_truth",
        "y_init",
        "y_init_correct",
        "p_r",
        "y_revised",
        "y_revised_correct",
        "y_init_extracted",
        "y_revised_extracted",
        "response_idx",
        "revision_idx",
        "source",
    }
    assert len(tuples) == 36
    assert all(contract <= set(kept) for kept in tuples)


def test_every_kept_revision_boxes_the_gold_answer_and_is_kept_once(tuples):
    assert all(kept["y_revised_correct"] is True for kept in tuples)
    assert all(f"\\boxed{{{kept['ground_truth']}}}" in kept["y_revised"] for kept in tuples)
    assert len({(kept["id"], kept["response_idx"], kept["revision_idx"]) for kept in tuples}) == len(tuples)


def test_the_phrase_follows_from_whether_y_init_boxes_the_gold_answer(tuples):
    for kept in tuples:
        right = f"\\boxed{{{kept['ground_truth']}}}" in kept["y_init"]
        assert kept["y_init_correct"] is right
        assert kept["p_r"] == (QWEN.right if right else QWEN.wrong)
    assert {kept["y_init_correct"] for kept in tuples} == {True, False}


def test_truncated_responses_count_as_wrong_and_have_no_end_of_turn(full_run):
    attempts = read_jsonl(full_run.folder / "collection" / "attempts.jsonl")
    responses = [line for line in attempts if line["kind"] == "response"]
    eot = AutoTokenizer.from_pretrained(full_run.base).eos_token_id
    truncated = [line for line in responses if line["y_init_finish_reason"] == "length"]
    assert 0 < len(truncated) < len(responses)
    for line in responses:
        assert (unpack_ids(line["y_init_ids"])[-1] == eot) == (line["y_init_finish_reason"] == "stop")
    assert all(line["y_init_tokens"] == len(unpack_ids(line["y_init_ids"])) for line in responses)
    assert all(line["y_init_tokens"] == MAX_TOKENS and line["y_init_correct"] is False for line in truncated)


def test_a_tuples_text_is_its_decoded_ids(full_run, tuples):
    tokenizer = AutoTokenizer.from_pretrained(full_run.base)
    for kept in tuples:
        for name in ("y_init", "y_revised"):
            assert tokenizer.decode(unpack_ids(kept[f"{name}_ids"]), skip_special_tokens=True) == kept[name]


def test_a_broken_dataset_line_is_set_aside_with_its_location(full_run):
    for step, folder in (("run_srt_data", "collection"), ("distill", "sd_zero")):
        bad = read_jsonl(full_run.folder / folder / "bad_records.jsonl")
        assert len(bad) == 1 and bad[0]["place"] == f"{full_run.problems}, line 61"
        assert "not JSON" in bad[0]["reason"]
        assert "1 unreadable records are set aside" in full_run.output(step)


# Stage files ----------------------------------------------------------------------------------------------


def test_the_stages_have_the_requested_sizes_and_share_no_tuple(tuples, stages):
    def keys(records: list[dict]) -> set:
        return {(record["id"], record["response_idx"], record["revision_idx"]) for record in records}

    assert [len(records) for records in stages] == [20, 10]
    assert not keys(stages[0]) & keys(stages[1])
    assert keys(stages[0]) | keys(stages[1]) <= keys(tuples)


def test_each_stages_completion_is_what_it_is_trained_on(stages):
    generation, revision = stages
    for record in generation:
        assert record["prompt"] == record["x"]
        assert record["completion"] == f"{record['y_init']}\n\n{record['p_r']}\n\n{record['y_revised']}"
    for record in revision:
        assert record["prompt"].startswith(record["x"])
        assert record["prompt"].endswith(f"{record['y_init']}\n\n{record['p_r']}\n\n")
        assert record["completion"] == record["y_revised"]


def test_stage_files_record_their_provenance(full_run):
    for stage, count in ((1, 20), (2, 10)):
        path = full_run.folder / "train_data" / f"little_stage{stage}.json"
        metadata = read(metadata_path(path))
        assert (metadata["stage"], metadata["tuples"]) == (stage, count)
        assert metadata["identity"]["control_phrases"] == QWEN.as_dict()


# Checkpoints ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["stage1", "stage2", "sd_zero"])
def test_each_checkpoint_loads_and_has_the_base_models_dtype(full_run, stage):
    folder, base = checkpoints(full_run)[stage], full_run.base
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}
    assert read(folder / "config.json")["dtype"] == "bfloat16"
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer, base_tokenizer = (AutoTokenizer.from_pretrained(path) for path in (folder, base))
    messages = [{"role": "user", "content": "x = 1 [A] + 2"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids == base_tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert model(input_ids=torch.tensor([ids])).logits.isfinite().all()
    generation, base_generation = (GenerationConfig.from_pretrained(path) for path in (folder, base))
    assert generation.eos_token_id == base_generation.eos_token_id
    assert generation.do_sample == base_generation.do_sample


def test_every_step_changed_the_weights(full_run):
    paths = [full_run.base, *checkpoints(full_run).values()]
    weights = [load_file(path / "model.safetensors") for path in paths]
    for before, after in zip(weights, weights[1:], strict=False):
        assert before.keys() == after.keys()
        assert any(not torch.equal(before[name], after[name]) for name in before)


def test_checkpoints_have_a_model_card_with_phrases_recipe_and_figures(full_run):
    cards = {stage: (path / "README.md").read_text() for stage, path in checkpoints(full_run).items()}
    for stage, path in checkpoints(full_run).items():
        fingerprint = read(path / "sd_zero.json")["data_fingerprint"]
        assert (
            fingerprint in cards[stage] and QWEN.wrong in cards[stage] and "| srt_data | readme | " in cards[stage]
        )
    assert "loss of the last logged update" in cards["stage2"] and "| distill | readme | " not in cards["stage2"]
    validation = read_jsonl(full_run.folder / "sd_zero" / "validation.jsonl")
    assert "| distill | readme | " in cards["sd_zero"] and "| steps | 10 |" in cards["sd_zero"]
    assert f"| validation avg@1 after 10 steps | {validation[-1]['avg_at_k']:.4g} |" in cards["sd_zero"]
    assert f"| validation avg@1 after 0 steps | {validation[0]['avg_at_k']:.4g} |" in cards["sd_zero"]


def test_checkpoints_record_stage_phrases_and_prompt(full_run):
    recorded = {stage: read(path / "sd_zero.json") for stage, path in checkpoints(full_run).items()}
    assert [recorded[stage]["stage"] for stage in ("stage1", "stage2", "sd_zero")] == [1, 2, "sd_zero"]
    for metadata in recorded.values():
        assert metadata["base_model"] == str(full_run.base)
        assert metadata["mode"] == "math"
        assert metadata["control_phrases"] == QWEN.as_dict()
        assert metadata["prompt"] == {"system_prompt": None, "prompt_suffix": "", "chat_template_kwargs": {}}
    assert recorded["sd_zero"]["srt_model"] == str(checkpoints(full_run)["stage2"])
    recipes = recorded["sd_zero"]["recipe"]
    assert {name: recipe["name"] for name, recipe in recipes.items()} == dict.fromkeys(
        ("srt_data", "sft", "distill"), "readme"
    )
    assert recipes["srt_data"]["overridden"].items() >= {"num_responses": 2, "num_revisions": 2}.items()
    assert recorded["stage1"]["recipe"] == {name: recipes[name] for name in ("srt_data", "sft")}


def test_no_temporary_files_are_left(full_run):
    left = [path for pattern in ("**/*.tmp", "**/.*", "**/*.work") for path in full_run.folder.glob(pattern)]
    assert left == []


# Self-distillation ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def metrics(full_run) -> list[dict]:
    return read_jsonl(full_run.folder / "sd_zero" / "metrics.jsonl")


def test_metrics_have_one_complete_line_per_step(metrics):
    assert [line["step"] for line in metrics] == list(range(10))
    expected = {
        "reward",
        "response_tokens",
        "truncated",
        "kl",
        "entropy",
        "teacher_entropy",
        "top1_agreement",
        "logprob_gap",
        "grad_norm",
        "lr",
        "trained_tokens",
    }
    assert all(expected <= set(line) for line in metrics)
    assert [line["step"] for line in metrics if "val_avg_at_k" in line] == [3, 7, 9]


def test_kl_is_also_reported_by_reward_and_adds_up(metrics):
    assert any("kl_r0" in line and "kl_r1" in line for line in metrics)
    for line in metrics:
        parts = [line[name] for name in ("kl_r0", "kl_r1") if name in line]
        assert ("kl_r1" in line) == (line["reward"] > 0) and ("kl_r0" in line) == (line["reward"] < 1)
        assert min(parts) - 1e-9 <= line["kl"] <= max(parts) + 1e-9
        assert line["kl"] >= 0


def test_sampler_and_trainer_agree_on_the_sampled_tokens_of_the_first_update(full_run, call, tmp_path):
    """With one update per step, the weights that sampled are those being trained."""
    config = full_run.distillation | {"OUTPUT_DIR": tmp_path / "one", "MAX_NUM_STEPS": 1, "VAL_PERIOD": 0}
    assert call("distill", config | {"TRAIN_GLOBAL_BATCH_SIZE": 8}).code == 0
    assert read_jsonl(tmp_path / "one" / "metrics.jsonl")[0]["logprob_gap"] < 1e-5


def test_tensorboard_events_are_written(full_run):
    assert list((full_run.folder / "sd_zero" / "tensorboard").glob("events.out.tfevents.*"))


# Evaluation and provenance --------------------------------------------------------------------------------


def test_evaluation_metrics_follow_from_the_logged_responses(full_run):
    folder = full_run.folder / "evaluation" / "sd_zero"
    metrics, attempts = read(folder / "evaluation.json"), read_jsonl(folder / "attempts.jsonl")
    greedy = [line for line in attempts if line["response_idx"] == GREEDY]
    responses = [line for line in attempts if line["kind"] == "response" and line not in greedy]
    right = Counter(line["problem_idx"] for line in responses if line["y_init_correct"])
    assert len(responses) == 12 * 2 and metrics["problems"] == 12 and metrics["k"] == 2
    assert metrics["avg_at_k"] == pytest.approx(sum(right.values()) / 24)
    assert len(greedy) == 12
    assert metrics["metrics"]["greedy"]["value"] == pytest.approx(sum(g["y_init_correct"] for g in greedy) / 12)
    known = [line for line in responses if line["y_init_logprob"] is not None]
    assert {line["response_idx"] for line in known} == {0} and len(known) == 12
    nats = -sum(line["y_init_logprob"] for line in known) / sum(line["y_init_tokens"] for line in known)
    assert metrics["metrics"]["entropy"]["value"] == pytest.approx(nats) and nats > 0
    assert metrics["pass_at_k"] == pytest.approx(len(right) / 12)
    assert metrics["mean_response_tokens"] == pytest.approx(sum(r["y_init_tokens"] for r in responses) / 24)
    assert metrics["revisions_r0"] + metrics["revisions_r1"] == 24
    low, high = metrics["avg_at_k_interval"]
    assert 0 <= low <= metrics["avg_at_k"] <= high <= 1


@pytest.mark.parametrize("folder", ["collection", "srt", "sd_zero", "evaluation/sd_zero"])
def test_run_json_records_what_produced_the_output(full_run, folder):
    run = read(full_run.folder / folder / "run.json")
    assert set(run) >= {"identity", "config", "git_commit", "packages"}
    assert {"torch", "transformers", "math-verify"} <= set(run["packages"])
    assert run["config"]["output_dir"] == str(full_run.folder / folder)
    assert run["identity"]["seed"] == 0


def test_each_step_prints_the_paths_it_wrote(full_run):
    assert str(full_run.folder / "collection" / "d_revision.json") in full_run.output("run_srt_data")
    assert re.search(rf"the SRT model: {full_run.folder}/srt/stage2 \(disk used: .+\)\n", full_run.output("sft"))
    assert str(full_run.folder / "sd_zero" / "student") in full_run.output("distill")


def test_the_report_shows_the_evaluation_metrics(full_run):
    metrics = read(full_run.folder / "evaluation" / "sd_zero" / "evaluation.json")
    stage = read(full_run.folder / "report" / "summary.json")["sd_zero"]
    assert stage["avg_at_2"] == pytest.approx(metrics["avg_at_k"])
    assert stage["mean_response_tokens"] == pytest.approx(metrics["mean_response_tokens"])
    page = (full_run.folder / "report" / "report.html").read_text()
    assert QWEN.wrong in page
    assert "default-src 'none'; style-src" in page and " src=" not in page  # self-contained
