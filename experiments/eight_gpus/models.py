"""Models of the paper's sizes with random weights: time and memory depend on the shape alone.

    python -m experiments.eight_gpus.models SHAPE FOLDER [TOKENIZER]

TOKENIZER: a folder whose tokenizer goes with the model, instead of the quickstart's.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    Olmo3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from quickstart.tokenizer import build_tokenizer
from srt.common.entry_point import run_entry_point
from srt.common.errors import UserError
from srt.common.models import default_device
from srt.common.name_values import show_help

QWEN = {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936}
# The numbers of their config.json on the Hugging Face hub.
SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-1.5b": {
        "model_type": "qwen2",
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
        "max_position_embeddings": 32768,
    },
    "qwen3-4b": QWEN
    | {
        "model_type": "qwen3",
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "tie_word_embeddings": True,
        "max_position_embeddings": 262144,
    },
    "olmo3-7b": {
        "model_type": "olmo3",
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 100278,
        "tie_word_embeddings": False,
        "max_position_embeddings": 65536,
    },
    "tiny": {
        "model_type": "qwen3",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "vocab_size": 512,
        "tie_word_embeddings": True,
        "max_position_embeddings": 512,
    },
}
CONFIGS: dict[str, type[PreTrainedConfig]] = {"qwen2": Qwen2Config, "qwen3": Qwen3Config, "olmo3": Olmo3Config}


def save_model(shape: str, folder: Path, weights: bool = True, tokenizer_folder: str = "") -> None:
    """A checkpoint of this shape in bf16.

    `weights`: False leaves them out; config and tokenizer suffice for a plan. `tokenizer_folder`: whose tokenizer
    it has; empty: the quickstart's, whose ids are the vocabulary's first.
    """
    numbers = dict(SHAPES[shape])
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder) if tokenizer_folder else build_tokenizer()
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = CONFIGS[numbers.pop("model_type")](**numbers, **ends, dtype="bfloat16")
    config.architectures = [type(config).__name__.replace("Config", "ForCausalLM")]
    if weights:
        torch.manual_seed(0)
        with default_device():
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.save_pretrained(folder)
    for part in (config, tokenizer, GenerationConfig(eos_token_id=tokenizer.eos_token_id)):
        part.save_pretrained(folder)


def main(arguments: list[str]) -> None:
    show_help(arguments, __doc__)
    if not 2 <= len(arguments) <= 3 or arguments[0] not in SHAPES:
        raise UserError(
            f"expected SHAPE FOLDER [TOKENIZER], a shape of {', '.join(SHAPES)}; --help shows how to run it"
        )
    shape, folder, *tokenizer = arguments
    save_model(shape, Path(folder), True, *tokenizer)


if __name__ == "__main__":
    run_entry_point(main)
