"""The optimizer's settings by their effect: trained weights against AdamW written out in float64."""

import random
from functools import partial

import pytest

from srt.common.models import load_model
from srt.config import load_config
from srt.contract.layout import TokenSequence
from srt.sft.config import SftConfig
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
