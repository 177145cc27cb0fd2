"""What a model does to its logits after the LM head: found by its forward pass, used by the KL."""

import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from opsd.hidden_states import lm_head, predicting_hidden
from opsd.kl import IDENTITY, KLConfig, LogitTransform
from opsd.logits import check_logits, find_logit_transform
from opsd.pair_kl import pair_kl
from srt.common.errors import UserError
from srt.contract.layout import TokenSequence
from tests.opsd.helpers.kl_cases import naive_token_kl, relative_error

SIZES = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.5,  # logits of several units: a cap shows
}
SEQUENCES = [TokenSequence([1, 5, 9, 2, 7, 7, 3], start=2), TokenSequence([4, 8, 1], start=1)]


def gemma2(cap):
    return Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=cap))


def granite(scaling):
    return GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=scaling))


def cohere(scale):
    return CohereForCausalLM(CohereConfig(**SIZES, logit_scale=scale))


def gptj():
    config = GPTJConfig(vocab_size=32, n_embd=16, n_layer=1, n_head=2, rotary_dim=4, n_positions=32)
    model = GPTJForCausalLM(config)
    torch.nn.init.normal_(model.lm_head.bias)
    return model


def gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=16, n_layer=1, n_head=2, n_positions=32))


CASES = {
    "gemma2 uncapped": (lambda: gemma2(None), IDENTITY),
    "gemma2 capped": (lambda: gemma2(2.5), LogitTransform(cap=2.5)),
    "granite": (lambda: granite(3.0), LogitTransform(1 / 3)),
    "cohere": (lambda: cohere(0.0625), LogitTransform(0.0625)),
    "gptj with a bias": (gptj, IDENTITY),
    "gpt2": (gpt2, IDENTITY),
}


@pytest.mark.parametrize(("make", "expected"), CASES.values(), ids=CASES)
def test_the_transform_is_what_the_forward_pass_does(make, expected):
    torch.manual_seed(0)
    model = make().eval()
    found = find_logit_transform(model, "tiny")
    assert found.scale == pytest.approx(expected.scale, rel=1e-7)
    assert found.cap == expected.cap
    check_logits(model, "tiny", lm_head(model, found))


@pytest.mark.parametrize(("make", "expected"), CASES.values(), ids=CASES)
def test_the_kl_is_that_of_the_models_own_logits(make, expected):
    """Loss and gradients through hidden states and head, against autograd over the model's logits in float64."""
    torch.manual_seed(0)
    student, teacher = make().eval(), gemma2(3.5).eval()
    transforms = [find_logit_transform(model, "tiny") for model in (student, teacher)]
    with torch.no_grad():
        teacher_hidden = predicting_hidden(teacher, SEQUENCES, 0)
    student_hidden = predicting_hidden(student, SEQUENCES, 0)
    heads = [lm_head(model, found) for model, found in zip((student, teacher), transforms, strict=True)]
    output = pair_kl(student_hidden, heads[0], teacher_hidden, heads[1], SEQUENCES, 0.5, KLConfig(), 0.0)
    output.loss.backward()
    gradients = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}

    student.zero_grad(set_to_none=True)
    student, teacher = student.double(), teacher.double()
    logits = [
        torch.cat([model(input_ids=torch.tensor([s.ids])).logits[0, s.start - 1 : -1] for s in SEQUENCES])
        for model in (student, teacher)
    ]
    token_kl = naive_token_kl(logits[0], logits[1].detach(), KLConfig())
    (0.5 * token_kl.sum()).backward()
    torch.testing.assert_close(output.token_kl.double(), token_kl.detach(), rtol=1e-4, atol=1e-6)
    for name, parameter in student.named_parameters():
        if parameter.grad is not None and parameter.grad.norm() > 1e-9:
            assert relative_error(gradients[name], parameter.grad) <= 1e-4, name


class Changed(Qwen3ForCausalLM):
    """A family that changes its logits in a way that no name tells."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = self.change(output.logits)
        return output


def changed(change):
    torch.manual_seed(0)
    model = Changed(Qwen3Config(**SIZES, head_dim=8)).eval()
    model.change = change
    return model


def test_a_scale_without_a_name_is_found():
    assert find_logit_transform(changed(lambda logits: logits * 0.5), "some/model") == LogitTransform(0.5)


@pytest.mark.parametrize(
    "change",
    [
        lambda logits: logits + 0.1 * logits.square(),
        lambda logits: logits - 1.0,
        lambda logits: logits.sigmoid(),
        lambda logits: torch.where(torch.arange(32) == 7, -torch.inf, logits),
        lambda logits: -logits,
        lambda logits: logits - logits.mean(-1, keepdim=True),
    ],
    ids=["square", "shift", "sigmoid", "an entry masked", "negated", "depends on other entries"],
)
def test_any_other_change_is_refused(change):
    with pytest.raises(UserError, match="some/model: it changes its logits after the LM head"):
        find_logit_transform(changed(change), "some/model")


def test_a_head_that_does_more_than_a_product_is_refused():
    model = changed(lambda logits: logits)
    model.lm_head.register_forward_hook(lambda layer, inputs, output: output + inputs[0][..., :1])
    with pytest.raises(UserError, match="some/model: its logits differ from the output of its LM head"):
        find_logit_transform(model, "some/model")


def test_hidden_states_that_change_on_their_way_to_the_head_are_refused():
    model = changed(lambda logits: logits)
    model.lm_head.register_forward_pre_hook(lambda layer, inputs: (3.0 * inputs[0],))
    with pytest.raises(UserError, match="some/model: its logits differ from its last hidden states"):
        check_logits(model, "some/model", lm_head(model))


def test_fewer_logits_than_rows_of_the_head_are_refused():
    with pytest.raises(UserError, match="some/model: its logits differ .*31 instead of 32"):
        find_logit_transform(changed(lambda logits: logits[..., :-1]), "some/model")
