"""What Phase 2 hands over to vLLM: the names and the layout of the checkpoint that save_pretrained writes."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from opsd.checkpoint_names import as_in_checkpoint, changed_names, saved_tensors
from opsd.local.student import Student
from srt.common.errors import UserError
from tests.families.models import tiny

SIZES = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 11,  # two digits: layers are not in the order of their names
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
EXPERTS = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "mlp_only_layers": [1]}


def qwen3():
    return Qwen3ForCausalLM(Qwen3Config(**SIZES, tie_word_embeddings=True))


def qwen3_moe():
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES, **EXPERTS))


def mixtral():
    return MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=3))


@pytest.mark.parametrize("loaded", [False, True], ids=["new", "loaded"])
@pytest.mark.parametrize("make", [qwen3, qwen3_moe, mixtral])
def test_weights_are_named_and_laid_out_as_saved(make, loaded, tmp_path):
    torch.manual_seed(0)
    make().save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path) if loaded else make()
    if loaded:
        assert all(parameter.requires_grad for parameter in model.parameters())
        model.save_pretrained(tmp_path)
    else:
        model.load_state_dict(AutoModelForCausalLM.from_pretrained(tmp_path).state_dict())
    saved = load_file(tmp_path / "model.safetensors")
    ours = list(as_in_checkpoint(model, model.named_parameters()))
    assert sorted(name for name, _ in ours) == sorted(saved)
    for name, weight in ours:
        assert not weight.requires_grad
        assert torch.equal(weight, saved[name]), name
    fused = [name for name, _ in model.named_parameters() if ".experts." in name]
    assert set(fused) <= set(changed_names(model))
    assert bool(fused) == (make is not qwen3)


def test_names_are_known_without_weights():
    with torch.device("meta"):
        assert len(changed_names(qwen3_moe())) == 2 * 10  # layer 1 has no experts
        assert changed_names(qwen3()) == []


@pytest.mark.parametrize("make", [qwen3, qwen3_moe, mixtral])
def test_an_adapter_is_handed_over_as_it_is_exported(make, make_config, tmp_path):
    """Experts are adapted too, as parameters of a module: each has a wrapper of its own."""
    torch.manual_seed(0)
    make().save_pretrained(tmp_path / "srt")
    config = make_config(student_model=tmp_path / "srt", lora_rank=2, gradient_checkpointing=0)
    student = Student(config, checkpoint=None)
    with torch.no_grad():
        adapters = [(name, p) for name, p in student.model.named_parameters() if ".lora_" in name]
        assert any(".experts." in name for name, _ in adapters) == (make is not qwen3)
        for _, parameter in adapters:
            parameter.normal_()
    ours = {name: weight.clone() for name, weight in student.named_weights()}
    student.export(tmp_path / "student", torch.float32)
    saved = load_file(tmp_path / "student" / "model.safetensors")
    assert sorted(ours) == sorted(saved)
    for name, weight in ours.items():
        torch.testing.assert_close(weight, saved[name])
    before = load_file(tmp_path / "srt" / "model.safetensors")
    assert any(not torch.allclose(saved[name], before[name]) for name in saved)


def test_buffers_of_a_checkpoint_are_handed_over_too(tmp_path):
    """vLLM expects the router's correction bias, which is not trained."""
    torch.manual_seed(0)
    config = tiny("deepseek_v3")[0]
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path)
    names = [name for name, _ in as_in_checkpoint(model, saved_tensors(model))]
    assert sorted(names) == sorted(load_file(tmp_path / "model.safetensors"))
    assert any(name.endswith("e_score_correction_bias") for name in names)


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("mamba", {"lora_rank": 2}, "LORA_RANK=2: PEFT cannot adapt .*mamba.*LORA_RANK=0"),
        ("no checkpointing", {"gradient_checkpointing": 1}, "GRADIENT_CHECKPOINTING=1: .* does not support it"),
    ],
)
def test_what_a_family_does_not_support_is_a_sentence(
    family, settings, message, make_config, tmp_path, monkeypatch
):
    if family == "no checkpointing":
        monkeypatch.setattr(Qwen3ForCausalLM, "supports_gradient_checkpointing", False)
    model = tiny("mamba")[1] if family == "mamba" else qwen3()
    model.save_pretrained(tmp_path / family)
    with pytest.raises(UserError, match=message):
        Student(make_config(student_model=tmp_path / family, **settings), checkpoint=None)
