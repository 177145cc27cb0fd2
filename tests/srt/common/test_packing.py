"""Packed sequences: attention that does not cross them, their positions, and when a model has that attention."""

import gc
import weakref

import pytest
import torch

from srt.common import packed_attention as attention
from srt.common.attention import attention_calls
from srt.common.dropout import turn_off_dropout
from srt.common.errors import UserError
from srt.common.packed_attention import PACKED, packed_attention
from srt.common.packing import attention_for_packing, packed_inputs, why_not_in_kernel
from srt.config import load_config
from srt.contract.layout import TokenSequence
from srt.sft.config import SftConfig
from srt.sft.model_check import check_model
from srt.sft.trainer import PassCollator
from tests.families.models import tiny
from tests.srt.helpers.attention_listings import counted_listings
from tests.srt.helpers.varlen_on_cpu import VarlenOnCpu

CPU = torch.device("cpu")


@pytest.mark.parametrize("softcap, with_sinks", [(None, False), (0.5, False), (None, True), (0.5, True)])
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_packed_attention_is_causal_attention_within_each_sequence(window, key_heads, softcap, with_sinks):
    torch.manual_seed(0)
    lengths, width = [3, 9, 1, 6], 8
    boundaries = torch.tensor([0, 3, 12, 13, 19], dtype=torch.int32)
    query = torch.randn(1, 4, 19, width, dtype=torch.float64)
    key, value = torch.randn(2, 1, key_heads, 19, width, dtype=torch.float64)
    mask = torch.block_diag(*[torch.ones(n, n) for n in lengths]).bool().tril()
    if window:
        mask &= torch.ones(19, 19).bool().triu(1 - window)
    repeated = [tensor.repeat_interleave(4 // key_heads, dim=1) for tensor in (key, value)]
    scores = query @ repeated[0].mT * 0.3
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    exponentials = scores.exp() * mask
    sinks = torch.tensor([0.3, -1.0, 2.0, 0.0], dtype=torch.float64) if with_sinks else None
    total = exponentials.sum(-1, keepdim=True) + (sinks.exp()[None, :, None, None] if with_sinks else 0)
    expected = (exponentials / total @ repeated[1]).transpose(1, 2)

    output, _ = packed_attention(
        torch.nn.Module(),
        query,
        key,
        value,
        None,
        scaling=0.3,
        sliding_window=window,
        cu_seq_lens_q=boundaries,
        max_length_q=9,
        softcap=softcap,
        s_aux=sinks,
    )
    torch.testing.assert_close(output, expected)


def test_attention_that_cannot_be_packed_is_refused():
    query = torch.randn(1, 1, 2, 4)
    boundaries = {"cu_seq_lens_q": torch.tensor([0, 2], dtype=torch.int32), "max_length_q": 2}
    for unsupported in ({"dropout": 0.1}, {"position_bias": torch.zeros(1, 1, 2, 2)}):
        with pytest.raises(UserError, match="dropout or a position bias"):
            packed_attention(torch.nn.Module(), query, query, query, None, **boundaries, **unsupported)
    with pytest.raises(UserError, match="does not tell its attention where a sequence ends"):
        packed_attention(torch.nn.Module(), query, query, query, None)


def test_positions_start_again_with_each_sequence():
    inputs = packed_inputs([[5, 6, 7], [8], [9, 4]])
    assert inputs["input_ids"].tolist() == [[5, 6, 7, 8, 9, 4]]
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 0, 0, 1]]
    assert inputs["seq_idx"].tolist() == [[0, 0, 0, 1, 2, 2]]
    assert inputs["cu_seq_lens_q"].tolist() == inputs["cu_seq_lens_k"].tolist() == [0, 3, 4, 6]
    assert inputs["max_length_q"] == inputs["max_length_k"] == 3


def test_what_the_probe_and_phase_2_give_a_model_is_what_sft_trains_on():
    ids = [[5, 6, 7], [8, 3], [9, 4, 4, 1]]
    collator = PassCollator([TokenSequence(i, start=1) for i in ids], 0, packed=True)
    expected = collator([{"tuples": [0, 1, 2]}])
    del expected["labels"]
    actual = packed_inputs(ids)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        if torch.is_tensor(value):
            torch.testing.assert_close(actual[name], value)
        else:
            assert actual[name] == value


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
@torch.no_grad()
def test_in_the_block_every_layer_has_the_attention_for_packing_and_its_own_again_after(family):
    """GPT-2's config has dropout, so that its layers get a config of their own; Gemma 2's attention is eager."""
    model = tiny(family, _attn_implementation="eager")[1]
    turn_off_dropout(model)
    ids = [list(range(3, 12)), list(range(20, 34))]
    apart = [model(input_ids=torch.tensor([i]), use_cache=False).logits[0] for i in ids]
    with pytest.raises(ZeroDivisionError):
        with attention_for_packing(model):
            inside = implementations(model)
            packed = model(**packed_inputs(ids), use_cache=False).logits[0]
            raise ZeroDivisionError
    assert inside == {PACKED}
    torch.testing.assert_close(packed, torch.cat(apart), rtol=1e-4, atol=1e-4)
    assert implementations(model) == {"eager"}


def implementations(model) -> set[str]:
    configs = [module.config for module in model.modules() if hasattr(module, "config")]
    return {config._attn_implementation for config in configs if hasattr(config, "_attn_implementation")}


def test_a_kernel_that_is_not_made_for_the_device_refuses_the_model():
    assert attention.varlen_attn is not None
    reason = why_not_in_kernel(tiny("qwen3")[1], CPU)  # torch's kernel is one for GPUs
    assert reason and reason.startswith(
        "torch's variable-length kernel refuses the attention of Qwen3ForCausalLM ("
    )


def test_each_kind_of_a_models_attention_is_tried_as_the_model_asks_for_it(monkeypatch):
    kernel = VarlenOnCpu()
    monkeypatch.setattr(attention, "varlen_attn", kernel)
    model = tiny("gemma3_text", head_dim=24, query_pre_attn_scalar=9, sliding_window=7)[1]
    assert why_not_in_kernel(model, CPU) is None
    config = model.config
    assert set(config.layer_types) == {"sliding_attention", "full_attention"}
    assert config.num_attention_heads > config.num_key_value_heads  # are repeated for this kernel
    shape = (8, config.num_attention_heads, 24)
    assert kernel.forward_calls() == {(shape, shape, 1 / 3, (-1, 0)), (shape, shape, 1 / 3, (6, 0))}
    assert kernel.backward_passes == 2


def test_a_kernel_that_cannot_compute_such_heads_or_their_gradient_refuses_the_model(monkeypatch):
    for kernel in (VarlenOnCpu(widest=8), VarlenOnCpu(widest_gradient=8)):
        monkeypatch.setattr(attention, "varlen_attn", kernel)
        reason = why_not_in_kernel(tiny("qwen3", head_dim=16)[1], CPU)
        assert reason and "heads of at most 8" in reason
        assert why_not_in_kernel(tiny("qwen3", head_dim=8)[1], CPU) is None


def test_a_kernel_is_not_tried_where_it_is_never_asked(monkeypatch):
    kernel = VarlenOnCpu(widest=0)
    monkeypatch.setattr(attention, "varlen_attn", kernel)
    for family in ("gemma2", "gpt_oss"):  # capped scores, attention sinks
        assert why_not_in_kernel(tiny(family)[1], CPU) is None


def test_sft_lists_the_attention_of_a_model_once(tiny_checkpoint):
    config = load_config(SftConfig, "sft", [f"base_model={tiny_checkpoint}", "packing=1"])
    with counted_listings() as listings:
        assert check_model(config, 100).packed
    assert len(listings) == 1


def test_a_model_whose_attention_was_listed_is_freed():
    model = tiny("gpt_oss")[1]
    assert any(call.arguments["s_aux"] is not None for call in attention_calls(model))  # a parameter of the model
    freed = weakref.ref(model)
    del model
    gc.collect()
    assert freed() is None
