"""What is decided on the base model before the run begins: whether SFT can train it, and with which attention."""

from srt.common.dropout import turn_off_dropout
from srt.common.errors import UserError
from srt.common.models import load_model
from srt.common.packed_attention import AttentionChoice
from srt.sft.attention import fit_attention
from srt.sft.config import SftConfig
from srt.sft.trainer import check_loss
from srt.sft.weights import with_adapters


def check_model(config: SftConfig, longest: int, device: str | None = None) -> AttentionChoice:
    """The attention for BASE_MODEL, which is loaded once for it, in fp32, and freed again.

    `longest`: tokens of the longest tuple. `device`: as in load_model. Raises UserError for a model that cannot be
    trained as configured.
    """
    model = load_model(config.base_model, "float32", device)
    if config.gradient_checkpointing and not model.supports_gradient_checkpointing:
        raise UserError(
            f"GRADIENT_CHECKPOINTING=1: {type(model).__name__} does not support it; set GRADIENT_CHECKPOINTING=0"
        )
    turn_off_dropout(model, sft=True)
    attention = fit_attention(model, config.packing, longest)
    if attention.implementation != "flash_attention_2":  # which fp32 weights do not run on
        check_loss(model, attention.packed)
    with_adapters(model, config)
    return attention
