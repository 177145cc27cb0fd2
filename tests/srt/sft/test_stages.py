"""SFT through its entry point: validation, length limit, adapters, the joint objective, resuming."""

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3Config

import srt.sft.stages
from srt.common.errors import UserError
from srt.common.files import read_json, read_jsonl
from srt.common.models import load_model, load_tokenizer
from srt.contract.layout import TokenSequence
from srt.sft.batching import BatchPlan
from tests.srt.helpers.sft_updates import naive_update


@pytest.fixture
def seen(monkeypatch):
    """The sequences that each stage trains on and validates on."""
    seen: list[tuple[list[TokenSequence], list[TokenSequence]]] = []
    real = srt.sft.stages.make_trainer

    def make_trainer(model, arguments, collator, plan: BatchPlan, validation: BatchPlan | None, *others):
        trained = [collator.sequences[index] for update in plan.updates for index in update]
        held_out = [collator.sequences[index] for index in validation.updates[0]] if validation else []
        seen.append((trained, held_out))
        return real(model, arguments, collator, plan, validation, *others)

    monkeypatch.setattr("srt.sft.stages.make_trainer", make_trainer)
    return seen


def test_the_validation_loss_is_the_mean_over_all_tokens_of_the_held_out_tuples(run_train, seen, tiny_checkpoint):
    out = run_train("val_fraction=0.4", "lr_stage1=1e-60", "batch_size_per_device=2")
    log = [entry["eval_loss"] for entry in read_json(out / "stage1" / "training_log.json") if "eval_loss" in entry]
    _, held_out = seen[0]
    expected, _ = naive_update(tiny_checkpoint, held_out)
    assert log == pytest.approx([expected] * len(log), rel=1e-5) and len(log) == 2  # before and after


def test_a_held_out_problem_is_trained_on_in_neither_stage(run_train, seen, tiny_checkpoint):
    run_train("val_fraction=0.4")
    tokenizer = load_tokenizer(str(tiny_checkpoint))

    def problems(sequences):
        return {re.search(r"x=(\d+)", tokenizer.decode(s.ids).replace(" ", ""))[1] for s in sequences}

    (trained1, held1), (trained2, held2) = [[problems(sequences) for sequences in pair] for pair in seen]
    assert trained1 == trained2 and held1 == held2 and held1
    assert not trained1 & held1 and len(trained1 | held1) == 12


def test_a_fraction_that_leaves_nothing_to_validate_is_refused(run_train, tmp_path):
    with pytest.raises(UserError, match="VAL_FRACTION=1e-06 splits the 12 tuples of stage 1 into 12 for training"):
        run_train("val_fraction=1e-6")
    assert not (tmp_path / "out").exists()


def test_tuples_that_are_too_long_are_set_aside_into_a_file(run_train, seen):
    limit = 78
    out = run_train(f"max_length={limit}", "epochs_stage2=0.1")
    set_aside = read_jsonl(out / "set_aside_stage1.jsonl")
    assert 0 < len(set_aside) < 12 and len(set_aside) + len(seen[0][0]) == 12
    assert all(entry["tokens"] > limit and entry["id"].startswith("problem") for entry in set_aside)


def test_only_adapters_are_trained_and_then_merged_into_an_ordinary_checkpoint(run_train, tiny_checkpoint):
    out = run_train("lora_rank=4", "lora_alpha=8", "epochs_stage2=0.1")
    merged = AutoModelForCausalLM.from_pretrained(out / "stage1").state_dict()
    base = AutoModelForCausalLM.from_pretrained(tiny_checkpoint).state_dict()
    assert merged.keys() == base.keys()
    changed = {name for name in base if not torch.equal(merged[name], base[name])}
    assert changed and all("proj" in name for name in changed)
    differences = [merged[name] - base[name] for name in sorted(changed)]
    assert all(torch.linalg.matrix_rank(d, rtol=1e-3) <= 4 for d in differences)


def test_each_stage_has_its_own_learning_rate(run_train, tiny_checkpoint, tmp_path):
    """With a rate of nearly 0 a stage ends as it began."""

    def moved(folder: Path, start: Path) -> bool:
        after, before = (load_model(str(path), "float32").state_dict() for path in (folder, start))
        return any(not torch.equal(after[name], before[name]) for name in before)

    for rates, expected in (((1e-60, 1e-3), [False, True]), ((1e-3, 1e-60), [True, False])):
        folder = tmp_path / f"{rates}"
        run_train(f"lr_stage1={rates[0]}", f"lr_stage2={rates[1]}", f"output_dir={folder}")
        stage1, stage2 = folder / "stage1", folder / "stage2"
        assert [moved(stage1, tiny_checkpoint), moved(stage2, stage1)] == expected


def test_the_joint_objective_trains_all_tuples_once_and_ends_in_stage2(run_train, seen):
    out = run_train("srt_objective=joint")
    assert sorted(path.name for path in out.iterdir()) == ["run.json", "stage2"]
    ((trained, _),) = seen
    assert len(trained) == 24
    assert read_json(out / "stage2" / "sd_zero.json")["objective"] == "joint"


def test_the_number_of_processes_changes_only_what_its_factor_decides(run_train, monkeypatch, capsys, tmp_path):
    """GRADIENT_ACCUMULATION would make it twice as many on two processes: a run that goes on keeps its number."""

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("srt.sft.stages._train_stage", stop)
    with pytest.raises(KeyboardInterrupt):
        run_train("gradient_accumulation=3")
    assert "TUPLES_PER_UPDATE: 3, set by BATCH_SIZE_PER_DEVICE=1 x GRADIENT_ACC" in capsys.readouterr().out
    monkeypatch.setattr("srt.sft.run.launch", stop)
    with pytest.raises(KeyboardInterrupt):
        run_train("gradient_accumulation=3", "num_processes=2")
    assert "started with 3 tuples per update and continues with that number" in capsys.readouterr().out
    with pytest.raises(UserError, match="tuples_per_update was 3 and is now 8"):
        run_train("tuples_per_update=8")
    with pytest.raises(KeyboardInterrupt):
        run_train("num_processes=2", f"output_dir={tmp_path / 'two'}")
    assert read_json(tmp_path / "two" / "run.json")["identity"]["tuples_per_update"] == 4


def test_a_model_with_sliding_windows_trains_the_same_packed_and_padded(run_train, tiny_checkpoint, tmp_path):
    config = Qwen3Config.from_pretrained(tiny_checkpoint)
    config.use_sliding_window, config.sliding_window = True, 16
    config.layer_types = ["sliding_attention", "full_attention", "sliding_attention"]
    model = load_model(str(tiny_checkpoint), "float32")
    base = tmp_path / "base"
    model.config = config
    model.save_pretrained(base)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (base / name).write_bytes((tiny_checkpoint / name).read_bytes())
    losses = []
    for packing in ("0", "1"):
        out = run_train(f"packing={packing}", f"output_dir={tmp_path / packing}", "epochs_stage2=0.1", base=base)
        out = tmp_path / packing
        losses.append([e["loss"] for e in read_json(out / "stage1" / "training_log.json") if "loss" in e])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
