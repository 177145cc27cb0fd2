"""One policy samples, scores and is trained: no dropout, no other noise, one precision."""

import copy

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

from opsd import hidden_states
from opsd.determinism import check_deterministic, policy_mode
from opsd.hidden_states import lm_head, predicting_hidden
from opsd.kl import KLConfig
from opsd.local.teacher import keep_residual_in_fp32
from opsd.pair_kl import pair_kl
from srt.common.dropout import turn_off_dropout
from srt.common.errors import UserError
from srt.contract.layout import TokenSequence
from srt.sampling.base import SampleRequest, SamplingConfig, sample_all
from srt.sampling.transformers import TransformersSampler
from tests.families.models import tiny

SEQUENCES = [TokenSequence([1, 5, 9, 2, 7, 7, 3], start=2), TokenSequence([4, 8, 1], start=1)]


def gpt2():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=32)
    assert config.resid_pdrop > 0 and config.attn_pdrop > 0  # the family's defaults
    return GPT2LMHeadModel(config)


def qwen3(layers=2, width=32, **settings):
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=64,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        **settings,
    )
    return Qwen3ForCausalLM(config)


@pytest.mark.parametrize("make", [gpt2, lambda: qwen3(attention_dropout=0.5)], ids=["gpt2", "qwen3"])
def test_training_mode_computes_what_evaluation_computes(make):
    model = make().train()
    expected = predicting_hidden(copy.deepcopy(model).eval(), SEQUENCES, 0)
    assert not torch.allclose(predicting_hidden(model, SEQUENCES, 0), expected)  # dropout is on
    turn_off_dropout(model)
    torch.testing.assert_close(predicting_hidden(model, SEQUENCES, 0), expected)
    torch.testing.assert_close(predicting_hidden(model, SEQUENCES, 0), expected)


def test_the_exported_config_keeps_its_dropout(tmp_path):
    model = gpt2()
    turn_off_dropout(model)
    model.save_pretrained(tmp_path)
    assert GPT2Config.from_pretrained(tmp_path).resid_pdrop == GPT2Config().resid_pdrop


def test_student_and_teacher_with_equal_weights_have_no_kl_under_autocast(monkeypatch):
    monkeypatch.setattr(hidden_states, "autocast_dtype", lambda device: torch.bfloat16)
    teacher = qwen3(layers=24, width=64).to(torch.bfloat16)
    student = copy.deepcopy(teacher).float()  # as trained weights are kept

    def kl():
        with torch.no_grad():
            hidden = [predicting_hidden(model, SEQUENCES, 0) for model in (student, teacher)]
        heads = [lm_head(model) for model in (student, teacher)]
        return pair_kl(hidden[0], heads[0], hidden[1], heads[1], SEQUENCES, 1.0, KLConfig(), 0.0).token_kl.mean()

    before = kl()
    keep_residual_in_fp32(teacher)
    assert kl() < 0.05 * before
    assert kl() < 1e-6


RANDOM = {
    "layerdrop": ("opt", {"layerdrop": 1.0, "dropout": 0.0}),
    "read from the config": ("falcon", {"attention_dropout": 0.5, "hidden_dropout": 0.5}),
    "router noise": ("mixtral", {"router_jitter_noise": 0.9}),
}


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("source", RANDOM)
def test_randomness_that_is_not_a_dropout_module_is_off(source, checkpointing):
    family, settings = RANDOM[source]
    model = tiny(family, **settings)[1]
    if checkpointing:
        model.gradient_checkpointing_enable()
    expected = predicting_hidden(copy.deepcopy(model).eval(), SEQUENCES, 0)
    model.train()
    assert not torch.allclose(predicting_hidden(model, SEQUENCES, 0), expected)
    turn_off_dropout(model)
    check_deterministic(model, "tiny")
    for _ in range(3):
        torch.testing.assert_close(predicting_hidden(model, SEQUENCES, 0), expected)


def test_gradient_checkpointing_stays_on():
    model = qwen3()
    model.gradient_checkpointing_enable()
    model.train()
    policy_mode(model)
    calls = []
    function = model.model.layers[0]._gradient_checkpointing_func
    model.model.layers[0]._gradient_checkpointing_func = lambda *rest, **named: (
        calls.append(1) or function(*rest, **named)
    )
    predicting_hidden(model, SEQUENCES, 0).sum().backward()
    assert calls and not model.model.layers[0].mlp.training


def test_a_model_that_is_random_all_the_same_is_refused():
    class Noisy(Qwen3ForCausalLM):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            if self.model.layers[0].training:
                output.logits = output.logits + torch.randn_like(output.logits)
            return output

    model = qwen3()
    model.__class__ = Noisy
    check_deterministic(model, "some/model")
    model.gradient_checkpointing_enable()
    with pytest.raises(UserError, match="some/model: in training mode .* GRADIENT_CHECKPOINTING=0"):
        check_deterministic(model, "some/model")


def test_sampling_leaves_the_training_mode_as_it_was():
    model = qwen3()
    model.gradient_checkpointing_enable()
    policy_mode(model)
    before = [module.training for module in model.modules()]
    assert any(before) and not all(before)
    sampler = TransformersSampler(model, 0, SamplingConfig(1.0, 1.0, (0,)), 4)
    sample_all(sampler, [SampleRequest([1, 2, 3], seed=0, max_tokens=2)])
    assert [module.training for module in model.modules()] == before
