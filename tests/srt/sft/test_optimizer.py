"""The optimizer's settings by their effect: trained weights against AdamW written out in float64."""

import random
from functools import partial

import pytest
import torch

from srt.common.models import load_model
from srt.config import load_config
from srt.contract.layout import TokenSequence
from srt.sft.config import SftConfig
from srt.sft.weights import with_adapters
from tests.srt.helpers.adapters import ALPHA, RANK, fill_adapters, merged_by_hand
from tests.srt.helpers.reference_adamw import KNOBS, PEAK, TOTAL_UPDATES, assert_trained_with_settings
from tests.srt.helpers.sft_updates import naive_loss, weights_after

UPDATES = [[0, 1], [2], [3], [4]]
assert len(UPDATES) == TOTAL_UPDATES


@pytest.fixture
def sequences() -> list[TokenSequence]:
    draw = random.Random(0)
    lengths = [12, 5, 17, 8, 9]
    return [TokenSequence([draw.randrange(3, 200) for _ in range(n)], start=draw.randrange(1, n)) for n in lengths]


def config_for(checkpoint, **settings) -> SftConfig:
    settings = {"base_model": checkpoint, "report_to": "none", "batch_size_per_device": 1} | settings
    return load_config(SftConfig, "sft", [f"{name}={value}" for name, value in settings.items()])


def test_three_updates_are_adamw_with_every_setting_of_the_knobs(tiny_checkpoint, sequences, tmp_path):
    config = config_for(tiny_checkpoint, warmup_ratio=0.25, gradient_checkpointing=0, **KNOBS)
    actual = weights_after(tiny_checkpoint, sequences, UPDATES, tmp_path, config, PEAK, stop_after=3)
    losses = [partial(naive_loss, sequences=[sequences[i] for i in update]) for update in UPDATES[:3]]
    assert_trained_with_settings(actual, lambda: load_model(str(tiny_checkpoint), "float64", "cpu"), losses)


def test_an_adapter_adds_alpha_over_rank_times_its_product(tiny_checkpoint):
    config = config_for(tiny_checkpoint, lora_rank=RANK, lora_alpha=ALPHA)
    base = load_model(str(tiny_checkpoint), "float32", "cpu").state_dict()
    model = with_adapters(load_model(str(tiny_checkpoint), "float32", "cpu"), config)
    fill_adapters(model)
    expected = merged_by_hand(model, base)
    torch.testing.assert_close(dict(model.merge_and_unload().state_dict()), expected)


def test_updates_that_bf16_would_round_away_are_kept(tiny_checkpoint, sequences, tmp_path):
    """The weights in training are fp32, whatever the checkpoint stores."""
    stored = tmp_path / "bf16"
    load_model(str(tiny_checkpoint), "bfloat16", "cpu").save_pretrained(stored)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (stored / name).write_bytes((tiny_checkpoint / name).read_bytes())
    config = config_for(stored, lr_schedule="constant_with_warmup", warmup_ratio=0, weight_decay=0)
    after = weights_after(stored, sequences, UPDATES, tmp_path / "work", config, 1e-6, stop_after=1)
    name = "model.layers.0.mlp.up_proj.weight"
    before = load_model(str(stored), "float32", "cpu").state_dict()[name]
    moved = (after[name] - before).abs()
    assert moved.max() == pytest.approx(1e-6, rel=0.05)  # Adam's first update: the rate itself
    assert (before.bfloat16() == after[name].bfloat16()).float().mean() > 0.9  # bf16 would not have shown it
