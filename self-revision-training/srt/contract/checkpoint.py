"""The contract stored in a checkpoint: its control phrases and prompt format, and the layout they define."""

from srt.common.errors import UserError
from srt.common.models import eot_ids, load_tokenizer
from srt.config_groups import PromptConfig
from srt.contract.layout import Layout, PromptFormat
from srt.contract.phrases import reconcile_phrases
from srt.contract.provenance import read_metadata


def layout_of_checkpoint(model_path: str, config: PromptConfig) -> Layout:
    """The layout that the checkpoint was trained with; `config` (None: unset) decides what it does not store.

    Raises UserError when a knob contradicts what the checkpoint stores.
    """
    metadata = read_metadata(model_path) or {}
    tokenizer = load_tokenizer(model_path)
    phrases = reconcile_phrases(config.control_phrases, metadata.get("control_phrases"), model_path)
    prompt = PromptFormat.from_config(config)
    if "prompt" in metadata:
        stored = PromptFormat(**metadata["prompt"])
        _refuse_contradictions(model_path, config, prompt, stored)
        prompt = stored
    return Layout(tokenizer, phrases, prompt, eot_ids(model_path, tokenizer))


def _refuse_contradictions(
    model_path: str, config: PromptConfig, requested: PromptFormat, stored: PromptFormat
) -> None:
    for name in ("system_prompt", "prompt_suffix", "chat_template_kwargs"):
        knob = getattr(config, name)
        if knob is not None and getattr(requested, name) != getattr(stored, name):
            raise UserError(
                f"{name.upper()}={knob!r} contradicts {model_path}, which was trained with "
                f"{getattr(stored, name)!r}; leave the knob unset"
            )
