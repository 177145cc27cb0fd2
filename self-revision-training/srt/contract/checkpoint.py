"""The contract that a checkpoint carries: its phrases and prompt settings, and the layout they give."""

from typing import Any

from srt.common.errors import UserError
from srt.common.models import eot_ids, load_tokenizer
from srt.contract.layout import Layout, PromptSettings
from srt.contract.phrases import reconcile_phrases
from srt.contract.provenance import read_metadata


def layout_of_checkpoint(
    model_path: str,
    mode: str,
    control_phrases: str | None,
    system_prompt: str | None,
    prompt_suffix: str | None,
    chat_template_kwargs: str | None,
) -> Layout:
    """The layout that the checkpoint was trained with; knobs (None: unset) fill in where it says nothing.

    Raises UserError when a knob contradicts what the checkpoint says about itself.
    """
    metadata = read_metadata(model_path) or {}
    tokenizer = load_tokenizer(model_path)
    phrases = reconcile_phrases(control_phrases, metadata.get("control_phrases"), model_path)
    prompt = PromptSettings.from_knobs(mode, system_prompt, prompt_suffix, chat_template_kwargs)
    if "prompt" in metadata:
        stored = PromptSettings(**metadata["prompt"])
        given = {
            "system_prompt": system_prompt,
            "prompt_suffix": prompt_suffix,
            "chat_template_kwargs": chat_template_kwargs,
        }
        _refuse_contradictions(model_path, given, prompt, stored)
        prompt = stored
    return Layout(tokenizer, phrases, prompt, eot_ids(model_path, tokenizer))


def _refuse_contradictions(
    model_path: str, given: dict[str, Any], wanted: PromptSettings, stored: PromptSettings
) -> None:
    for name, knob in given.items():
        if knob is not None and getattr(wanted, name) != getattr(stored, name):
            raise UserError(
                f"{name.upper()}={knob!r} contradicts {model_path}, which was trained with "
                f"{getattr(stored, name)!r}; leave the knob unset"
            )
