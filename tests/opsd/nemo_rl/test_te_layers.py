"""Which attention MEGATRON_LAYERS=te has. Needs Transformer Engine, of which nothing is computed."""

import pytest

from opsd.select_engine import why_no_transformer_engine

missing = why_no_transformer_engine()
pytestmark = pytest.mark.skipif(missing is not None, reason=f"its layers were NOT made: {missing}")


@pytest.mark.parametrize(
    ("settings", "attention"),
    [
        ({}, "TorchAttention"),
        ({"window_size": (128, 0)}, "TEDotProductAttention"),
        ({"softmax_type": "learnable"}, "TEDotProductAttention"),
    ],
)
def test_attention_is_torchs_where_torch_has_it(settings, attention):
    from megatron.core.transformer.transformer_config import TransformerConfig

    from opsd.nemo_rl.worker.megatron_layers import te_layers

    config = TransformerConfig(num_layers=1, hidden_size=8, num_attention_heads=2, qk_layernorm=True, **settings)
    parts = te_layers(config).submodules.self_attention.submodules
    assert parts.core_attention.__name__ == attention
    assert parts.linear_qkv.__name__ == "TELayerNormColumnParallelLinear"
    assert parts.q_layernorm.__name__ == "TENorm"
