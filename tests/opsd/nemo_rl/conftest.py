"""Shared by the tests of NeMo-RL's configuration."""

import pytest
from transformers import AutoConfig


@pytest.fixture
def model_config(tiny_checkpoint):
    """Of a model with 4 attention and 2 key-value heads."""
    model_config = AutoConfig.from_pretrained(tiny_checkpoint)
    model_config.num_attention_heads, model_config.num_key_value_heads = 4, 2
    return model_config
