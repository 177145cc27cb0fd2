"""The model card of an exported checkpoint."""

import re

import pytest
import yaml

from srt.common.models import load_tokenizer
from srt.contract.layout import Layout
from srt.contract.model_card import model_card, write_model_card
from srt.contract.phrases import PHRASE_SETS
from srt.contract.prompt import PromptFormat


def metadata(prompt=None, **changes) -> dict:
    return {
        "base_model": "Qwen/Qwen3-4B-Instruct-2507",
        "recipe": {
            "srt_data": {"name": "readme", "overridden": {"num_responses": 2, "revise_correct": True}},
            "sft": {"name": "paper", "overridden": {}},
        },
        "revisions": {"open-r1/OpenR1-Math-220k": "abc123"},
        "mode": "math",
        "stage": 2,
        "control_phrases": PHRASE_SETS["olmo"].as_dict(),
        "prompt": (prompt or PromptFormat()).as_dict(),
        "data_fingerprint": "0123456789abcdef",
    } | changes


def front_matter(card: str) -> dict:
    _, block, _ = card.split("---\n", 2)
    return yaml.safe_load(block)


def test_the_card_says_what_sd_zero_json_holds():
    card = model_card(metadata(), {"updates": 1234, "loss": 0.123456, "validation": None})
    assert "# SRT model (Self-Revision Training) of Qwen/Qwen3-4B-Instruct-2507" in card
    assert "| wrong (r = 0) | Wrong. I need to redo all. |" in card
    assert "| correct (r = 1) | Let me rephrase the above solution. |" in card
    assert "| srt_data | readme | NUM_RESPONSES=2, REVISE_CORRECT=1 |" in card and "| sft | paper | - |" in card
    assert "| fingerprint of the training data | 0123456789abcdef |" in card
    assert "| revision of open-r1/OpenR1-Math-220k | abc123 |" in card
    assert "| updates | 1,234 |" in card and "| loss | 0.1235 |" in card and "validation" not in card


@pytest.mark.parametrize("stage", [1, 2, "sd_zero"])
def test_the_hub_can_read_its_front_matter(stage):
    card = model_card(metadata(stage=stage), {})
    fields = front_matter(card)
    assert fields["library_name"] == "transformers" and "sd-zero" in fields["tags"]
    assert fields["base_model"] == "Qwen/Qwen3-4B-Instruct-2507"
    assert "## Metrics" not in card


def test_a_local_base_model_is_no_id_of_the_hub(tmp_path):
    for base in (str(tmp_path), "./models/base", "models/of/mine"):
        assert "base_model" not in front_matter(model_card(metadata(base_model=base), {}))


@pytest.mark.parametrize(
    "prompt",
    [
        PromptFormat(),
        PromptFormat(prompt_suffix=""),
        PromptFormat('Answer "briefly".\nAlways.', "In a \\boxed{}.", {"enable_thinking": False}),
    ],
)
def test_its_code_makes_the_prompt_of_the_training(prompt, tiny_checkpoint):
    card = model_card(metadata(prompt), {})
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names = {"checkpoint": str(tiny_checkpoint), "problem": "What is 1 + 2?"}
    exec(code, names)
    tokenizer = load_tokenizer(str(tiny_checkpoint))
    layout = Layout(tokenizer, PHRASE_SETS["olmo"], prompt, [tokenizer.eos_token_id])
    assert tokenizer.encode(names["prompt"], add_special_tokens=False) == layout.chat(names["problem"])


def test_a_phrase_cannot_break_the_table():
    phrases = {"name": "mine", "0": "Wrong | no.\nAgain.", "1": "Fine."}
    assert "| wrong (r = 0) | Wrong \\| no. Again. |" in model_card(metadata(control_phrases=phrases), {})


def test_the_card_is_a_file_of_the_checkpoint(tmp_path):
    write_model_card(tmp_path, metadata(), {"updates": 3})
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == model_card(metadata(), {"updates": 3})
