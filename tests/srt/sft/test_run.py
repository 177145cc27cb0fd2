"""What SFT refuses before and during training, and the end-of-turn tokens of a checkpoint."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import GenerationConfig

import srt.sft.stages
from srt.collect.consumed import consumed_by_checkpoint, text_sha256, write_consumed
from srt.collect.split import metadata_path
from srt.common.errors import UserError
from srt.common.files import read_json, write_json
from srt.common.machine import Machine
from srt.contract.phrases import PHRASE_SETS
from srt.contract.records import Problem
from srt.sft.run import train

PHRASES = PHRASE_SETS["qwen"]


@pytest.fixture
def run_train(tiny_checkpoint, tmp_path):
    """Writes two stage files of three records each and runs SFT on them."""
    record = {"x": "x = 1", "y_init": "A 1", "p_r": PHRASES.wrong, "y_revised": "A 2"}
    for stage in (1, 2):
        path = tmp_path / "data" / f"p_stage{stage}.json"
        write_json(path, [record] * 3)
        write_json(metadata_path(path), {"identity": {"control_phrases": PHRASES.as_dict(), "mode": "math"}})

    def run(*config):
        train(
            [
                f"base_model={tiny_checkpoint}",
                f"train_data_dir={tmp_path / 'data'}",
                "data_prefix=p",
                f"output_dir={tmp_path / 'out'}",
                "report_to=none",
                "num_processes=1",
                *config,
            ]
        )

    return run


def test_phrases_that_contradict_the_data_are_refused(run_train, tmp_path):
    with pytest.raises(UserError, match=r"CONTROL_PHRASES=olmo contradicts .*p_stage1\.run\.json.*'qwen'"):
        run_train("control_phrases=olmo")
    assert not (tmp_path / "out").exists()


def test_a_training_that_does_not_fit_writes_nothing(run_train, tmp_path, monkeypatch, capsys):
    """Of the stage with more tokens; the model has 0.6 M parameters and is trained in fp32."""
    monkeypatch.setattr("srt.sft.plan.this_machine", lambda: Machine(0, None, 5_000_000))
    words = r"memory of stage [12]: does NOT fit: .*Adam's moments.* Try .*LORA_RANK=32.*; CHECK_MEMORY=0 starts"
    with pytest.raises(UserError, match=words):
        run_train()
    assert not (tmp_path / "out").exists()
    run_train("check_memory=0")
    assert "does NOT fit" in capsys.readouterr().out and (tmp_path / "out" / "stage2").is_dir()
    run_train()  # it is complete: there is nothing to fit


def test_data_of_the_other_mode_is_refused(run_train, tmp_path):
    with pytest.raises(UserError, match=r"MODE=code contradicts .*p_stage1\.run\.json.*set MODE=math"):
        run_train("mode=code")
    assert not (tmp_path / "out").exists()


def test_data_of_another_revision_of_the_base_is_refused(run_train, tiny_checkpoint, tmp_path, monkeypatch):
    path = metadata_path(tmp_path / "data" / "p_stage1.json")
    write_json(path, read_json(path) | {"revisions": {str(tiny_checkpoint): "a" * 40}})
    monkeypatch.setattr("srt.sft.plan.model_revision", lambda model: "b" * 40)
    with pytest.raises(UserError, match=f"p_stage1.run.json: made with revision {'a' * 40} of .* now {'b' * 40}"):
        run_train()
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr("srt.sft.plan.model_revision", lambda model: "a" * 40)
    run_train("epochs_stage1=0.1", "epochs_stage2=0.1")
    expected = {str(tiny_checkpoint): "a" * 40}
    assert read_json(tmp_path / "out" / "run.json")["revisions"] == expected
    assert read_json(tmp_path / "out" / "stage2" / "sd_zero.json")["revisions"] == expected


def test_a_limit_below_all_tuples_is_refused_and_can_then_be_raised(run_train, tmp_path):
    """MAX_LENGTH is part of the identity of a run: a run that never started must not fix it."""
    with pytest.raises(UserError, match="stage 1: all 3 tuples are longer than MAX_LENGTH=10"):
        run_train("max_length=10")
    assert not (tmp_path / "out").exists()


def test_a_stage_without_tuples_is_refused_before_the_other_one_is_trained(run_train, tmp_path):
    write_json(tmp_path / "data" / "p_stage2.json", [])
    with pytest.raises(UserError, match=r"p_stage2\.json: expected a list with at least one tuple"):
        run_train()
    assert not (tmp_path / "out").exists()


def test_different_data_in_the_same_folder_is_another_run(run_train, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("srt.sft.stages._train_stage", stop)
    with pytest.raises(KeyboardInterrupt):
        run_train()
    records = read_json(tmp_path / "data" / "p_stage1.json")
    write_json(tmp_path / "data" / "p_stage1.json", records[:2])
    with pytest.raises(UserError, match="holds a run with other settings: data_fingerprints was"):
        run_train()


def test_a_base_model_that_cannot_be_used_is_named_and_leaves_no_run_behind(run_train, tiny_checkpoint, tmp_path):
    with pytest.raises(UserError, match="/no/such/model: no such checkpoint folder"):
        run_train("base_model=/no/such/model")
    base = shutil.copytree(tiny_checkpoint, tmp_path / "base")
    (base / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="base: its tokenizer has no chat template"):
        run_train(f"base_model={base}")
    assert not (tmp_path / "out").exists()


def test_a_loss_that_is_not_finite_stops_the_run_and_is_never_logged_as_zero(run_train, tmp_path):
    with pytest.raises(UserError, match="stage 1, update 2: the loss is .* the gradient norm is nan"):
        run_train("weight_decay=1e33", "gradient_accumulation=1", "epochs_stage1=3", "warmup_ratio=0")
    assert not (tmp_path / "out" / "stage1").exists()


def test_the_only_update_of_a_stage_has_a_learning_rate_and_changes_the_weights(
    run_train, tiny_checkpoint, tmp_path
):
    run_train("epochs_stage1=0.1", "epochs_stage2=0.1", "warmup_ratio=0.5")
    previous = load_file(tiny_checkpoint / "model.safetensors")
    for stage in (1, 2):
        folder = tmp_path / "out" / f"stage{stage}"
        (rate,) = [e["learning_rate"] for e in read_json(folder / "training_log.json") if "learning_rate" in e]
        assert rate > 0
        weights = load_file(folder / "model.safetensors")
        assert not any(torch.equal(weights[name], previous[name]) for name in weights)
        previous = weights


def test_a_checkpoint_ends_its_turns_as_its_base_and_its_template_do(run_train, tiny_checkpoint, tmp_path):
    base = shutil.copytree(tiny_checkpoint, tmp_path / "base")
    config = GenerationConfig.from_pretrained(base)
    config.eos_token_id = [1, 0]  # the template ends a turn with 2
    config.save_pretrained(base)
    run_train(f"base_model={base}", "epochs_stage1=0.1", "epochs_stage2=0.1")
    for stage in (1, 2):
        assert GenerationConfig.from_pretrained(tmp_path / "out" / f"stage{stage}").eos_token_id == [1, 0, 2]


def test_a_checkpoint_names_the_problems_that_its_data_was_made_of(run_train, tmp_path):
    write_consumed(tmp_path / "data" / "p_problems.jsonl", [Problem("a", "x = 1", "1")])
    run_train("epochs_stage1=0.1", "epochs_stage2=0.1")
    for stage in (1, 2):
        checkpoint = str(tmp_path / "out" / f"stage{stage}")
        assert consumed_by_checkpoint(checkpoint) == {"Phase 1": {text_sha256("x = 1"): "a"}}


def test_a_collection_that_goes_on_meanwhile_does_not_change_them(run_train, tmp_path, monkeypatch):
    """It deletes the file before it writes the stage files anew."""
    path = tmp_path / "data" / "p_problems.jsonl"
    write_consumed(path, [Problem("a", "x = 1", "1")])
    real = srt.sft.stages.new_model

    def new_model(*arguments):
        path.unlink(missing_ok=True)
        return real(*arguments)

    monkeypatch.setattr("srt.sft.stages.new_model", new_model)
    run_train("epochs_stage1=0.1", "epochs_stage2=0.1")
    assert consumed_by_checkpoint(str(tmp_path / "out" / "stage2")) == {"Phase 1": {text_sha256("x = 1"): "a"}}


def test_a_checkpoint_says_how_the_datas_prompts_were_rendered(run_train, tmp_path):
    path = metadata_path(tmp_path / "data" / "p_stage1.json")
    run_train("epochs_stage1=1", "epochs_stage2=1")
    probe = read_json(tmp_path / "out" / "stage2" / "sd_zero.json")["prompt_probe"]
    assert "zqxquestion" in probe and probe.endswith("<|im_start|>assistant\n")  # the base model's own

    shutil.rmtree(tmp_path / "out")
    write_json(path, read_json(path) | {"config": {"prompt_probe": "as collected"}})
    run_train("epochs_stage1=1", "epochs_stage2=1")
    assert read_json(tmp_path / "out" / "stage2" / "sd_zero.json")["prompt_probe"] == "as collected"
