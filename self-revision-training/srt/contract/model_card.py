"""The model card (README.md) of an exported checkpoint: how to prompt it, and where it comes from.

It says in words what sd_zero.json holds, so that other evaluators (docs/other-evaluators.md) can use the prompt of
the training.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srt.common.files import atomic_write
from srt.knob_notes import shown_value

MODEL_CARD = "README.md"
TITLES = {
    "1": "SRT, after stage 1 (generation)",
    "2": "SRT model (Self-Revision Training)",
    "sd_zero": "SD-Zero model (Self-Distillation Zero)",
}
WHAT = {
    "1": "It was fine-tuned to respond, to write a control phrase, and to revise; stage 2 continues from it.",
    "2": "It was fine-tuned to generate and to revise responses, on revisions of its own that verified.",
    "sd_zero": "It was distilled from its SRT model, which read each response and was told whether it is correct.",
}


def write_model_card(folder: Path, metadata: dict[str, Any], metrics: Mapping[str, object]) -> None:
    """Write the card of the checkpoint in `folder`.

    metadata: as in its sd_zero.json. metrics: name -> value, as the run measured them; None is left out.
    """
    with atomic_write(folder / MODEL_CARD) as temporary:
        temporary.write_text(model_card(metadata, metrics), encoding="utf-8", errors="backslashreplace")


def model_card(metadata: dict[str, Any], metrics: Mapping[str, object]) -> str:
    """The text of the card."""
    stage, base = str(metadata["stage"]), str(metadata["base_model"])
    sections = [
        _front_matter(base),
        f"# {TITLES.get(stage, stage)} of {base}\n\n{WHAT.get(stage, '')} The method is Self-Distillation Zero, "
        "[arXiv:2604.12002](https://arxiv.org/abs/2604.12002).",
        _prompt(metadata["prompt"]),
        _phrases(metadata["control_phrases"]),
        _recipe(metadata.get("recipe", {})),
        _data(metadata),
        _metrics({name: value for name, value in metrics.items() if value is not None}),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(base: str) -> str:
    lines = ["library_name: transformers", "pipeline_tag: text-generation", "tags: [sd-zero, self-distillation]"]
    if base.count("/") == 1 and not base.startswith(("/", ".")) and not Path(base).exists():  # an id of the hub
        lines.append(f"base_model: {json.dumps(base, ensure_ascii=False)}")
    return "\n".join(["---", *lines, "---"])


def _prompt(prompt: dict[str, Any]) -> str:
    suffix, system, kwargs = prompt["prompt_suffix"], prompt["system_prompt"], prompt["chat_template_kwargs"]
    question = f'problem + "\\n\\n" + {suffix!r}' if suffix else "problem"
    messages = [f'{{"role": "user", "content": {question}}}']
    if system:
        messages.insert(0, f'{{"role": "system", "content": {system!r}}}')
    options = "".join(f", {name}={value!r}" for name, value in kwargs.items())
    lines = [
        "from transformers import AutoTokenizer",
        "",
        "tokenizer = AutoTokenizer.from_pretrained(checkpoint)",
        f"messages = [{', '.join(messages)}]",
        f"prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False{options})",
    ]
    text = "## Prompt\n\nThe prompt of its training, with the chat template of its tokenizer:\n\n"
    text += "\n".join(["```python", *lines, "```"])
    if prompt.get("date"):
        text += f"\n\nThe template writes the current date; in training it was {prompt['date']}."
    return text


def _phrases(phrases: dict[str, str]) -> str:
    return (
        "## Revision\n\nTo have a response revised, append the control phrase, between blank lines, to the "
        "response (without its end-of-turn token) in the assistant's turn, and let the model continue.\n\n"
        f"| the response is | control phrase ({phrases['name']}) |\n|---|---|\n"
        f"| wrong (r = 0) | {_cell(phrases['0'])} |\n| correct (r = 1) | {_cell(phrases['1'])} |"
    )


def _recipe(recipes: dict[str, Any]) -> str:
    if not recipes:
        return ""
    rows = []
    for step, recipe in recipes.items():
        overridden = recipe.get("overridden", {}).items()
        changes = ", ".join(f"{name.upper()}={shown_value(value)}" for name, value in overridden)
        rows.append(f"| {step} | {recipe['name']} | {_cell(changes) or '-'} |")
    return "## Recipe\n\n| step | recipe | knobs that differ from it |\n|---|---|---|\n" + "\n".join(rows)


def _data(metadata: dict[str, Any]) -> str:
    rows = [
        f"| mode | {metadata['mode']} |",
        f"| fingerprint of the training data | {metadata['data_fingerprint']} |",
    ]
    rows += [
        f"| revision of {_cell(name)} | {revision} |" for name, revision in metadata.get("revisions", {}).items()
    ]
    return "## Data\n\n| | |\n|---|---|\n" + "\n".join(rows)


def _metrics(metrics: dict[str, object]) -> str:
    if not metrics:
        return ""
    rows = [f"| {name} | {_number(value)} |" for name, value in metrics.items()]
    return "## Metrics\n\nMeasured during its training.\n\n| | |\n|---|---|\n" + "\n".join(rows)


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _cell(text: object) -> str:
    """Text for a cell of a Markdown table, in one line."""
    return " ".join(str(text).split()).replace("|", "\\|")
