"""What an update computes, packed and padded, against a naive sum; attention; weights of another model."""

import random
from pathlib import Path

import pytest
import torch

from srt.common.models import load_model
from srt.common.packed_attention import choose_attention
from srt.config import load_config
from srt.contract.layout import TokenSequence
from srt.contract.phrases import PHRASE_SETS
from srt.sft.attention import fit_attention
from srt.sft.config import SftConfig
from srt.sft.trainer import PassCollator
from srt.sft.weights import load_trained, trained_weights
from tests.srt.helpers.sft_updates import largest_difference, naive_update, one_update

PHRASES = PHRASE_SETS["qwen"]


@pytest.fixture
def sequences() -> list[TokenSequence]:
    """Seven sequences of 5 to 40 tokens: unequal passes with different numbers of supervised tokens."""
    draw = random.Random(0)
    lengths = [40, 5, 17, 33, 8, 21, 12]
    return [TokenSequence([draw.randrange(3, 200) for _ in range(n)], start=draw.randrange(1, n)) for n in lengths]


def config_for(checkpoint: Path, *more: str) -> SftConfig:
    overrides = ["report_to=none", "max_tokens_per_pass=60", "batch_size_per_device=3", "max_grad_norm=0"]
    return load_config(SftConfig, "sft", [f"base_model={checkpoint}", *overrides, *more])


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_the_loss_and_gradients_of_an_update_equal_those_of_one_tuple_at_a_time(
    tiny_checkpoint, sequences, tmp_path, packed
):
    """Nothing leaks between the tuples of a pass, and all tokens have the same weight."""
    loss, gradients = one_update(tiny_checkpoint, sequences, tmp_path, config_for(tiny_checkpoint), packed)
    expected_loss, expected = naive_update(tiny_checkpoint, sequences)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert largest_difference(gradients, expected) < 1e-4


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_the_joint_loss_counts_each_token_of_y_revised_twice(tiny_checkpoint, sequences, tmp_path, packed):
    revised = [(s.start + len(s.ids)) // 2 for s in sequences]
    config = config_for(tiny_checkpoint, "gradient_checkpointing=0")
    loss, gradients = one_update(tiny_checkpoint, sequences, tmp_path, config, packed, revised)
    expected_loss, expected = naive_update(tiny_checkpoint, sequences, revised)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert largest_difference(gradients, expected) < 1e-4


def test_without_a_gpu_packing_is_used_only_when_requested(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert choose_attention("auto")[1:] == (False, "SDPA")
    assert choose_attention("1")[1:] == (True, "SDPA, one sequence at a time")


def test_with_a_gpu_the_log_names_the_kernel_for_packing(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("srt.common.packed_attention.is_flash_attn_2_available", lambda: True)
    assert choose_attention("auto") == ("flash_attention_2", True, "FlashAttention 2")
    monkeypatch.setattr("srt.common.packed_attention.is_flash_attn_2_available", lambda: False)
    assert choose_attention("auto")[1] and "FlashAttention is not installed" in choose_attention("auto")[2]
    assert choose_attention("0") == ("sdpa", False, "SDPA (FlashAttention is not installed)")


def test_where_a_model_does_not_support_flash_attention_packing_does_without(tiny_checkpoint, monkeypatch):
    model = load_model(str(tiny_checkpoint), "float32", "cpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("srt.common.packed_attention.is_flash_attn_2_available", lambda: True)
    assert fit_attention(model, "auto", 100)[:2] == ("packed_varlen", True)  # here it is not installed
    assert model.config._attn_implementation == "packed_varlen"
    model.set_attn_implementation("sdpa")
    assert fit_attention(model, "0", 100) == ("sdpa", False, "SDPA")


def test_an_empty_pass_supervises_nothing(sequences):
    batch = PassCollator(sequences, 0, packed=True)([{"tuples": [], "skipped": False}])
    assert (batch["labels"] == -100).all() and batch["input_ids"].shape == (1, 2)


def test_weights_of_another_model_are_refused(tiny_checkpoint):
    model = load_model(str(tiny_checkpoint), "float32")
    weights = trained_weights(model)
    name = next(iter(weights))
    with pytest.raises(ValueError, match="belong to another model"):
        load_trained(model, {key: weights[key] for key in weights if key != name})
    with pytest.raises(ValueError, match="belong to another model"):
        load_trained(model, weights | {"extra": torch.zeros(1)})
