"""What an update computes, packed and padded, against a naive sum; validation, adapters, checkpoints."""

import random
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from srt.collect.split import metadata_path
from srt.common.errors import UserError
from srt.common.files import read_json, read_jsonl, write_json
from srt.common.models import load_model, load_tokenizer
from srt.config import load_config
from srt.contract.layout import TokenSequence
from srt.contract.phrases import PHRASE_SETS
from srt.sft.batching import Plan
from srt.sft.config import SftConfig
from srt.sft.packed_attention import choose_attention, packed_attention
from srt.sft.run import train
from srt.sft.trainer import PassCollator, load_trained, trained_weights
from tests.srt.helpers.sft_updates import largest_difference, naive_update, one_update

PHRASES = PHRASE_SETS["qwen"]


@pytest.fixture
def rows() -> list[TokenSequence]:
    """Seven rows of 5 to 40 tokens: unequal passes, each with another number of supervised tokens."""
    draw = random.Random(0)
    lengths = [40, 5, 17, 33, 8, 21, 12]
    return [TokenSequence([draw.randrange(3, 200) for _ in range(n)], start=draw.randrange(1, n)) for n in lengths]


def config_for(checkpoint: Path, *more: str) -> SftConfig:
    settings = ["report_to=none", "max_tokens_per_pass=60", "batch_size_per_device=3", "max_grad_norm=0"]
    return load_config(SftConfig, "sft", [f"base_model={checkpoint}", *settings, *more])


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_an_updates_loss_and_gradients_are_those_of_one_tuple_after_the_other(
    tiny_checkpoint, rows, tmp_path, packed
):
    """Whatever stands in the same pass: nothing leaks between tuples, and all tokens weigh the same."""
    loss, gradients = one_update(tiny_checkpoint, rows, tmp_path, config_for(tiny_checkpoint), packed)
    expected_loss, expected = naive_update(tiny_checkpoint, rows)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert largest_difference(gradients, expected) < 1e-4


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_the_joint_loss_counts_each_token_of_y_revised_twice(tiny_checkpoint, rows, tmp_path, packed):
    revised = [(row.start + len(row.ids)) // 2 for row in rows]
    config = config_for(tiny_checkpoint, "gradient_checkpointing=0")
    loss, gradients = one_update(tiny_checkpoint, rows, tmp_path, config, packed, revised)
    expected_loss, expected = naive_update(tiny_checkpoint, rows, revised)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert largest_difference(gradients, expected) < 1e-4


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_packed_attention_is_causal_attention_within_each_sequence(window, key_heads):
    torch.manual_seed(0)
    lengths, width = [3, 9, 1, 6], 8
    borders = torch.tensor([0, 3, 12, 13, 19], dtype=torch.int32)
    query = torch.randn(1, 4, 19, width, dtype=torch.float64)
    key, value = torch.randn(2, 1, key_heads, 19, width, dtype=torch.float64)
    mask = torch.block_diag(*[torch.ones(n, n) for n in lengths]).bool().tril()
    if window:
        mask &= torch.ones(19, 19).bool().triu(1 - window)
    repeated = [tensor.repeat_interleave(4 // key_heads, dim=1) for tensor in (key, value)]
    scores = (query @ repeated[0].mT * 0.3).masked_fill(~mask, float("-inf"))
    expected = (scores.softmax(-1) @ repeated[1]).transpose(1, 2)

    output, _ = packed_attention(
        torch.nn.Module(),
        query,
        key,
        value,
        None,
        scaling=0.3,
        sliding_window=window,
        cu_seq_lens_q=borders,
        max_length_q=9,
    )
    torch.testing.assert_close(output, expected)


def test_attention_that_is_more_than_a_softmax_is_refused():
    query = torch.randn(1, 1, 2, 4)
    with pytest.raises(UserError, match="set PACKING=0"):
        packed_attention(torch.nn.Module(), query, query, query, None, softcap=30.0)


def test_without_a_gpu_packing_is_used_only_when_asked_for(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert choose_attention("auto")[1:] == (False, "SDPA")
    assert choose_attention("1")[1:] == (True, "SDPA, one sequence at a time")


def test_with_a_gpu_the_log_names_the_kernel_that_packs(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("srt.sft.packed_attention.is_flash_attn_2_available", lambda: True)
    assert choose_attention("auto") == ("flash_attention_2", True, "FlashAttention 2")
    monkeypatch.setattr("srt.sft.packed_attention.is_flash_attn_2_available", lambda: False)
    assert choose_attention("auto")[1] and "FlashAttention is not installed" in choose_attention("auto")[2]
    assert choose_attention("0") == ("sdpa", False, "SDPA (FlashAttention is not installed)")


def test_an_empty_pass_supervises_nothing(rows):
    batch = PassCollator(rows, 0, packed=True)([{"tuples": []}])
    assert (batch["labels"] == -100).all() and batch["input_ids"].shape == (1, 2)


def test_weights_of_another_model_are_refused(tiny_checkpoint):
    model = load_model(str(tiny_checkpoint), "float32")
    weights = trained_weights(model)
    name = next(iter(weights))
    with pytest.raises(ValueError, match="of another model"):
        load_trained(model, {key: weights[key] for key in weights if key != name})
    with pytest.raises(ValueError, match="of another model"):
        load_trained(model, weights | {"extra": torch.zeros(1)})


# Through the entry point -------------------------------------------------------------------------------------


@pytest.fixture
def run_train(tiny_checkpoint, tmp_path):
    """Writes two stage files of 12 tuples and runs SFT on them; returns the output folder."""
    draw = random.Random(0)
    for stage in (1, 2):
        path = tmp_path / "data" / f"p_stage{stage}.json"
        records = [
            {
                "id": f"problem {number}",
                "x": f"x = {number}",
                "y_init": "A 1",
                "p_r": PHRASES.wrong,
                "y_revised": "A " + "2 " * (1 + (number + draw.randrange(3)) % 9),
            }
            for number in range(12)
        ]
        write_json(path, records)
        write_json(metadata_path(path), {"identity": {"control_phrases": PHRASES.as_dict(), "mode": "math"}})

    def run(*config: str, base: Path = tiny_checkpoint) -> Path:
        train(
            [
                f"base_model={base}",
                f"train_data_dir={tmp_path / 'data'}",
                "data_prefix=p",
                "report_to=none",
                "num_processes=1",
                f"output_dir={tmp_path / 'out'}",
                "gradient_accumulation=4",
                "lr_stage1=1e-3",
                "lr_stage2=1e-3",
                "epochs_stage1=1",
                "epochs_stage2=1",
                *config,
            ]
        )
        return tmp_path / "out"

    return run


@pytest.fixture
def logged(monkeypatch):
    """The rows that each stage trains and validates on."""
    import srt.sft.run

    seen: list[tuple[list[TokenSequence], list[TokenSequence]]] = []
    real = srt.sft.run.make_trainer

    def make_trainer(model, arguments, collator, plan: Plan, validation: Plan | None, *others):
        trained = [collator.rows[index] for update in plan.updates for index in update]
        held_out = [collator.rows[index] for index in validation.updates[0]] if validation else []
        seen.append((trained, held_out))
        return real(model, arguments, collator, plan, validation, *others)

    monkeypatch.setattr("srt.sft.run.make_trainer", make_trainer)
    return seen


def test_the_validation_loss_is_the_mean_over_all_tokens_of_the_tuples_held_out(
    run_train, logged, tiny_checkpoint
):
    out = run_train("val_fraction=0.4", "lr_stage1=0", "batch_size_per_device=2")
    log = [entry["eval_loss"] for entry in read_json(out / "stage1" / "training_log.json") if "eval_loss" in entry]
    _, held_out = logged[0]
    expected, _ = naive_update(tiny_checkpoint, held_out)
    assert log == pytest.approx([expected] * len(log), rel=1e-5) and len(log) == 2  # before and after


def test_a_problem_that_is_held_out_is_trained_in_neither_stage(run_train, logged, tiny_checkpoint):
    run_train("val_fraction=0.4")
    tokenizer = load_tokenizer(str(tiny_checkpoint))

    def problems(rows):
        return {re.search(r"x=(\d+)", tokenizer.decode(row.ids).replace(" ", ""))[1] for row in rows}

    (trained1, held1), (trained2, held2) = [[problems(rows) for rows in pair] for pair in logged]
    assert trained1 == trained2 and held1 == held2 and held1
    assert not trained1 & held1 and len(trained1 | held1) == 12


def test_a_fraction_that_leaves_nothing_to_validate_is_refused(run_train, tmp_path):
    with pytest.raises(UserError, match="VAL_FRACTION=1e-06: of the 12 tuples of stage 1, 12 are left to train"):
        run_train("val_fraction=1e-6")
    assert not (tmp_path / "out").exists()


def test_tuples_that_are_too_long_are_set_aside_into_a_file(run_train, logged):
    limit = 78
    out = run_train(f"max_length={limit}", "epochs_stage2=0.1")
    aside = read_jsonl(out / "set_aside_stage1.jsonl")
    assert 0 < len(aside) < 12 and len(aside) + len(logged[0][0]) == 12
    assert all(entry["tokens"] > limit and entry["id"].startswith("problem") for entry in aside)


def test_adapters_are_trained_alone_and_merged_into_an_ordinary_checkpoint(run_train, tiny_checkpoint):
    out = run_train("lora_rank=4", "lora_alpha=8", "epochs_stage2=0.1")
    merged = AutoModelForCausalLM.from_pretrained(out / "stage1").state_dict()
    base = AutoModelForCausalLM.from_pretrained(tiny_checkpoint).state_dict()
    assert merged.keys() == base.keys()
    changed = {name for name in base if not torch.equal(merged[name], base[name])}
    assert changed and all("proj" in name for name in changed)
    differences = [merged[name] - base[name] for name in sorted(changed)]
    assert all(torch.linalg.matrix_rank(d, rtol=1e-3) <= 4 for d in differences)


def test_the_joint_objective_trains_all_tuples_once_and_ends_in_stage2(run_train, logged):
    out = run_train("srt_objective=joint")
    assert sorted(path.name for path in out.iterdir()) == ["run.json", "stage2"]
    ((trained, _),) = logged
    assert len(trained) == 24
    assert read_json(out / "stage2" / "sd_zero.json")["objective"] == "joint"


def test_a_run_that_continues_keeps_its_tuples_per_update(run_train, monkeypatch, capsys):
    """On two processes the default would be twice as many."""

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("srt.sft.run._train_stage", stop)
    with pytest.raises(KeyboardInterrupt):
        run_train()
    monkeypatch.setattr("srt.sft.run.launch", stop)
    with pytest.raises(KeyboardInterrupt):
        run_train("num_processes=2")
    assert "began with 4 tuples an update and keeps them" in capsys.readouterr().out
    with pytest.raises(UserError, match="tuples_per_update was 4 and is now 8"):
        run_train("tuples_per_update=8")


def test_a_model_with_sliding_windows_trains_packed_as_padded(run_train, tiny_checkpoint, tmp_path):
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
