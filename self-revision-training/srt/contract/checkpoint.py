"""The contract stored in a checkpoint: its mode, control phrases and prompt format, and the layout they define."""

from pathlib import Path
from typing import Any

from srt.common.errors import UserError
from srt.common.models import check_token_ids, eot_ids, load_tokenizer
from srt.config_groups import PromptConfig
from srt.contract.layout import Layout
from srt.contract.phrases import PhraseSet, reconcile_phrases
from srt.contract.prompt import PromptFormat
from srt.contract.provenance import read_metadata, started_identity

PROMPT_KNOBS = ("system_prompt", "prompt_suffix", "chat_template_kwargs")


def layout_of_checkpoint(model_path: str, config: PromptConfig, output_dir: Path | None = None) -> Layout:
    """The layout that the checkpoint was trained with; `config` (None: unset) decides what it does not store.

    `output_dir`: of the run that uses it, whose prompt keeps the date it began with. Raises UserError when a knob
    contradicts what the checkpoint stores.
    """
    metadata = read_metadata(model_path) or {}
    check_mode(config.mode, metadata.get("mode"), model_path)
    tokenizer = load_tokenizer(model_path)
    phrases = reconcile_phrases(config.control_phrases, metadata.get("control_phrases"), model_path)
    prompt = PromptFormat.from_config(config)
    if "prompt" in metadata:
        stored = PromptFormat.from_dict(metadata["prompt"])
        _refuse_contradictions(model_path, config, prompt, stored)
        prompt = stored
    prompt = prompt.with_date(tokenizer, started_prompt(output_dir))
    layout = Layout(tokenizer, phrases, prompt, eot_ids(model_path, tokenizer))
    check_token_ids(model_path, tokenizer, [*layout.eot_ids, *layout.chat(""), *layout.cue(0), *layout.cue(1)])
    return layout


def started_prompt(output_dir: Path | None) -> dict[str, Any] | None:
    """The prompt format of the run that `output_dir` holds; None for a new run."""
    identity = started_identity(output_dir) if output_dir else None
    return None if identity is None else identity.get("prompt", {})


def check_mode(mode: str, stored: str | None, where: str) -> None:
    """Raises UserError when MODE is not that of the artifact at `where` (None: it does not store one)."""
    if stored is not None and stored != mode:
        raise UserError(
            f"MODE={mode} contradicts {where}, which was made with MODE={stored}; set MODE={stored}, or use "
            "another checkpoint and data"
        )


def check_same_contract(teacher_model: str, mode: str, layout: Layout) -> None:
    """Raises UserError when the teacher was trained for another mode, other phrases or another prompt.

    `layout`: the student's, with which the teacher's sequences are built. What the teacher does not store is not
    compared, nor is the date in a prompt.
    """
    metadata = read_metadata(teacher_model) or {}
    check_mode(mode, metadata.get("mode"), f"TEACHER_MODEL={teacher_model}")
    differing = []
    if "control_phrases" in metadata:
        phrases = PhraseSet.from_dict(metadata["control_phrases"])
        if (phrases.wrong, phrases.right) != (layout.phrases.wrong, layout.phrases.right):
            differing.append(f"control_phrases is {phrases.name!r}, the student's {layout.phrases.name!r}")
    if "prompt" in metadata:
        prompt = PromptFormat.from_dict(metadata["prompt"])
        differing += [
            f"{name} is {getattr(prompt, name)!r}, the student's {getattr(layout.prompt, name)!r}"
            for name in PROMPT_KNOBS
            if getattr(prompt, name) != getattr(layout.prompt, name)
        ]
    if differing:
        raise UserError(
            f"TEACHER_MODEL={teacher_model} was trained on other sequences than the student "
            f"({'; '.join(differing)}); use a teacher and a student that were trained alike"
        )


def _refuse_contradictions(
    model_path: str, config: PromptConfig, requested: PromptFormat, stored: PromptFormat
) -> None:
    for name in PROMPT_KNOBS:
        knob = getattr(config, name)
        if knob is not None and getattr(requested, name) != getattr(stored, name):
            raise UserError(
                f"{name.upper()}={knob!r} contradicts {model_path}, which was trained with "
                f"{getattr(stored, name)!r}; leave the knob unset"
            )
