"""SFT through its entry point on families that need more than plain attention, and on models that do not fit."""

import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from quickstart.tokenizer import build_tokenizer
from srt.collect.run import collect
from srt.common.errors import UserError
from srt.common.files import read_json
from srt.config import load_config
from srt.contract.phrases import PHRASE_SETS
from srt.sft.config import SftConfig
from srt.sft.run import train
from srt.sft.weights import new_model
from tests.families.models import tiny
from tests.srt.helpers.stage_files import write_stage_files

PHRASES = PHRASE_SETS["qwen"]
TOKENIZER = build_tokenizer()


@pytest.fixture
def save_base(tmp_path):
    """save_base("gemma2") writes a checkpoint of the family with the quickstart's tokenizer."""

    def save_base(family: str, tokenizer=TOKENIZER, **settings) -> Path:
        folder = tmp_path / family
        tiny(family, **{"vocab_size": len(TOKENIZER), "pad_token_id": 0} | settings)[1].save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save_base


@pytest.fixture
def run_sft(tmp_path):
    """Trains stage 2 alone, two updates of six tuples each; returns the losses."""
    draw = random.Random(0)
    write_stage_files(tmp_path / "data", 6, lambda number: 1 + draw.randrange(9))

    def run(base: Path, packing: int, *settings: str) -> list[float]:
        out = tmp_path / f"out {packing}"
        fixed = {
            "base_model": base,
            "train_data_dir": tmp_path / "data",
            "data_prefix": "p",
            "output_dir": out,
            "packing": packing,
            "report_to": "none",
            "num_processes": 1,
            "srt_objective": "joint",
            "epochs_stage1": 1,
            "gradient_accumulation": 6,
            "lr_stage1": 1e-60,  # nothing changes
        }
        train([*(f"{name}={value}" for name, value in fixed.items()), *settings])
        return [entry["loss"] for entry in read_json(out / "stage2" / "training_log.json") if "loss" in entry]

    return run


@pytest.mark.parametrize(
    "family, settings, said",
    [
        (
            "qwen3_5_text",
            {},
            "padding instead of packing, because layers of Qwen3_5ForCausalLM mix packed",
        ),
        (
            "stablelm",
            {},
            "StableLmForCausalLM does not support packed sequences (it does not tell its attention where",
        ),
        (
            "llama4_text",
            {},
            "Llama4ForCausalLM keeps to attention_chunk_size=8 by a mask, and the longest sequence has",
        ),
        ("gemma2", {}, "attention: eager, because torch's SDPA ignores softcap of Gemma2ForCausalLM"),
        ("gpt_oss", {}, "in 1 packed pass on 1 process"),
        ("qwen2_moe", {"router_aux_loss_coef": 0.5}, "in 1 packed pass on 1 process"),
        ("gpt2", {}, "in 1 packed pass on 1 process"),  # its config sets dropout
    ],
)
def test_the_loss_does_not_depend_on_packing(save_base, run_sft, capsys, family, settings, said):
    base = save_base(family, **settings)
    padded = run_sft(base, 0)
    capsys.readouterr()
    packed = run_sft(base, 1)
    assert said in capsys.readouterr().out
    assert len(padded) == 2 and padded == pytest.approx(packed, rel=1e-5)


@torch.no_grad()
def test_a_rate_of_dropout_that_the_family_reads_from_its_config_is_off_too(save_base):
    base = save_base("falcon", hidden_dropout=0.3)
    model = new_model(str(base), load_config(SftConfig, "sft", [f"base_model={base}"]), "sdpa")
    ids = torch.arange(3, 20)[None]
    expected = model.eval()(input_ids=ids).logits
    torch.testing.assert_close(model.train()(input_ids=ids).logits, expected)


def test_the_exported_model_is_the_base_at_a_learning_rate_that_changes_nothing(save_base, run_sft, tmp_path):
    """Dropout and attention that training sets are not exported, and Llama 4's parameters keep their names."""
    base = save_base("llama4_text", attention_dropout=0.3)
    run_sft(base, 0)
    before, after = (AutoModelForCausalLM.from_pretrained(path) for path in (base, tmp_path / "out 0" / "stage2"))
    assert after.config.attention_dropout == 0.3
    weights = after.state_dict()
    assert all(weights[name].equal(weight) for name, weight in before.state_dict().items())


def test_adapters_that_peft_does_not_have_are_one_sentence(save_base, run_sft):
    with pytest.raises(
        UserError, match="LORA_RANK=2: PEFT has no adapters .* of MambaForCausalLM .*set LORA_RANK=0"
    ):
        run_sft(save_base("mamba"), 0, "lora_rank=2")


def test_a_padding_token_beyond_the_embedding_is_not_used(save_base, run_sft):
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<beyond>"})
    assert tokenizer.pad_token_id == len(TOKENIZER)
    base = save_base("qwen3", tokenizer)
    padded = run_sft(base, 0, "batch_size_per_device=3", "gradient_accumulation=2")
    assert padded == pytest.approx(run_sft(base, 1), rel=1e-5)


def test_tokens_beyond_the_embedding_are_refused_before_training(save_base, run_sft, tmp_path):
    base = save_base("qwen3", vocab_size=20)
    with pytest.raises(UserError, match=r"its tokenizer writes '.*' as token \d+, and its embedding ends at 19"):
        run_sft(base, 0)
    assert not (tmp_path / "out 0").exists()


def test_a_family_without_gradient_checkpointing_is_one_sentence(save_base, run_sft, monkeypatch):
    monkeypatch.setattr("transformers.Qwen3ForCausalLM.supports_gradient_checkpointing", False)
    with pytest.raises(UserError, match="Qwen3ForCausalLM does not support it; set GRADIENT_CHECKPOINTING=0"):
        run_sft(save_base("qwen3"), 0)


def test_a_base_that_phase_2_refuses_is_named_before_phase_1_starts(save_base, run_sft, tmp_path, capsys):
    base = save_base("gemma3_text", use_bidirectional_attention=True)
    run_sft(base, 0)
    (tmp_path / "problems.json").write_text('[{"problem": "x = 1", "answer": "7"}]')
    said = [capsys.readouterr().out]
    collect(["--dry-run", f"model_path={base}", f"dataset={tmp_path / 'problems.json'}"])
    said.append(capsys.readouterr().out)
    for output, start in zip(said, ("stage 2", "dry run"), strict=True):
        warning = f"warning: Phase 2 (distill.sh) will refuse {base}: its config sets use_bidirectional_attention"
        assert warning in output and output.index(warning) < output.index(start)
