"""One policy samples, scores and is trained: no dropout, one precision, logits that the KL computes too."""

import copy

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from opsd import hidden_states
from opsd.hidden_states import check_logits, lm_head, predicting_hidden
from opsd.kl import KLConfig
from opsd.local.teacher import keep_residual_in_fp32
from opsd.pair_kl import pair_kl
from srt.common.dropout import turn_off_dropout
from srt.common.errors import UserError
from srt.contract.layout import TokenSequence

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


@pytest.mark.parametrize("make", [gpt2, qwen3], ids=["gpt2", "qwen3"])
def test_models_with_plain_logits_pass_the_check(make):
    check_logits(make().eval(), "tiny", token_id=3)


def test_logits_that_are_changed_after_the_head_are_found_without_a_name():
    class Scaled(Qwen3ForCausalLM):
        """A family with a scaling that no list knows."""

        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = 0.5 * output.logits
            return output

    model = qwen3()
    model.__class__ = Scaled
    with pytest.raises(UserError, match="some/model: its logits differ from its last hidden states"):
        check_logits(model, "some/model", token_id=3)


def test_soft_capped_logits_are_found():
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        final_logit_softcapping=1.0,
    )
    model = Gemma2ForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(50)
    with pytest.raises(UserError, match="its logits differ"):
        check_logits(model, "gemma", token_id=3)
