"""Rotary embeddings whose frequencies depend on the length of a batch: one length decides, everywhere."""

import pytest
import torch
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM, Qwen3Config

from quickstart.tokenizer import build_tokenizer
from srt.common.models import load_model, vllm_overrides
from srt.common.rope import fixed_config, rope_overrides
from srt.sampling.base import SampleRequest, SamplingConfig, sample_all
from srt.sampling.transformers import TransformersSampler
from srt.sampling.vllm_inprocess import VllmSampler

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
ORIGINAL = 16  # tokens from which on the frequencies change
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 100.0,
    "original_max_position_embeddings": ORIGINAL,
    "short_factor": [1.0] * 16,
    "long_factor": [1.0 + 0.5 * i for i in range(16)],
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0}


def phi3(vocab):
    config = Phi3Config(
        vocab_size=vocab,
        **SIZES,
        max_position_embeddings=64,
        original_max_position_embeddings=ORIGINAL,
        rope_parameters=dict(LONGROPE),
    )
    return Phi3ForCausalLM(config)


def llama(vocab):
    config = LlamaConfig(
        vocab_size=vocab, **SIZES, head_dim=32, max_position_embeddings=ORIGINAL, rope_parameters=dict(DYNAMIC)
    )
    return LlamaForCausalLM(config)


@pytest.fixture(scope="module", params=[phi3, llama], ids=["longrope", "dynamic"])
def checkpoint(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rope") / request.param.__name__
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    request.param(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@torch.no_grad()
def logits(model, ids, width):
    """Of `ids`, padded to a width."""
    padded = torch.tensor([ids + [0] * (width - len(ids)), [5] * width])
    return model(input_ids=padded, use_cache=False).logits[0, : len(ids)]


def test_the_width_of_a_batch_does_not_matter(checkpoint):
    model, ids = load_model(str(checkpoint)).eval(), [1, 2, 3, 4, 5, 6]
    expected = logits(model, ids, 6)
    for width in (ORIGINAL, 3 * ORIGINAL, 6):
        torch.testing.assert_close(logits(model, ids, width), expected, rtol=1e-3, atol=1e-4)
    stock = type(model).from_pretrained(checkpoint).eval()
    assert not torch.allclose(logits(stock, ids, 6), logits(stock, ids, 3 * ORIGINAL), atol=1e-2)


def test_the_frequencies_are_those_of_the_context_length(checkpoint):
    """LongRoPE's long ones; for dynamic scaling, which acts beyond the context, the unscaled ones."""
    model = load_model(str(checkpoint)).eval()
    unscaled = 100.0 ** (-torch.arange(0, 32, 2) / 32)
    factors = torch.tensor(LONGROPE["long_factor"]) if "phi3" in str(checkpoint) else 1.0
    torch.testing.assert_close(model.model.rotary_emb.inv_freq, unscaled / factors)


def test_the_saved_config_is_the_models_own(checkpoint, tmp_path):
    load_model(str(checkpoint)).save_pretrained(tmp_path)
    before, after = (AutoConfig.from_pretrained(folder) for folder in (checkpoint, tmp_path))
    assert after.rope_parameters == before.rope_parameters
    assert after.rope_parameters["rope_type"] in ("longrope", "dynamic")


def test_sampling_across_the_boundary_gives_the_log_probs_of_scoring(checkpoint):
    model = load_model(str(checkpoint)).eval()
    sampler = TransformersSampler(model, 0, SamplingConfig(1.0, 1.0, (1,)), 4)
    prompt = [2, 3, 4, 5]
    sample = sample_all(sampler, [SampleRequest(prompt, seed=0, max_tokens=2 * ORIGINAL)])[0]
    assert len(sample.token_ids) > ORIGINAL
    ids = prompt + sample.token_ids
    with torch.no_grad():
        log_probs = model(input_ids=torch.tensor([ids])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    expected = log_probs.gather(-1, torch.tensor(sample.token_ids)[:, None])[:, 0]
    assert sample.logprobs == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.vllm
@pytest.mark.parametrize("max_model_len", [ORIGINAL, 48], ids=["below the boundary", "beyond it"])
def test_vllm_computes_the_same_whatever_its_limit(checkpoint, max_model_len):
    if "llama" in str(checkpoint) and max_model_len > ORIGINAL:
        pytest.skip("dynamic scaling acts beyond the context length, which no phase exceeds")
    greedy = SamplingConfig(0.0, 1.0, (1,))
    theirs = TransformersSampler(load_model(str(checkpoint)).eval(), 0, greedy, 4)
    ours = VllmSampler(str(checkpoint), greedy, max_model_len=max_model_len, max_batch=4)
    request = SampleRequest([2, 3, 4, 5], seed=0, max_tokens=max_model_len - 4)
    try:
        sample, expected = (sample_all(sampler, [request])[0] for sampler in (ours, theirs))
    finally:
        ours.close()
    assert sample.token_ids == expected.token_ids
    assert sample.logprobs == pytest.approx(expected.logprobs, abs=1e-3)


def test_other_kinds_are_left_alone():
    for rope in (
        {"rope_type": "default"},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        {"rope_type": "dynamic", "factor": 1.0, "alpha": 9.0},
    ):
        assert fixed_config(Qwen3Config(rope_parameters=rope | {"rope_theta": 1e4})) is None
    assert rope_overrides(Qwen3Config(), "qwen") == {}


def test_rope_by_layer_type_is_fixed_by_layer_type():
    config = Qwen3Config(max_position_embeddings=64)
    config.layer_types = ["full", "sliding"]
    config.rope_parameters = {"full": dict(LONGROPE), "sliding": {"rope_type": "default", "rope_theta": 7.0}}
    fixed = fixed_config(config).rope_parameters
    assert fixed["full"]["short_factor"] == fixed["full"]["long_factor"] == LONGROPE["long_factor"]
    assert fixed["sliding"] == config.rope_parameters["sliding"]
    assert config.rope_parameters["full"] == LONGROPE


def test_a_line_says_which_length_decides(checkpoint, capsys):
    from srt.common import rope

    rope._print_once.cache_clear()
    load_model(str(checkpoint))
    assert vllm_overrides(str(checkpoint))["rope_parameters"]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("rope:")]
    assert len(lines) == 1 and str(checkpoint) in lines[0]
