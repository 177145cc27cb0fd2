"""Checkpoints that are damaged, incomplete, no checkpoints, or not what they say."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoTokenizer

from srt.contract.phrases import PHRASE_SETS
from srt.contract.provenance import write_metadata
from tests.bad_inputs.place import MODEL_KNOB, QWEN, Case, Content, Place, change_weights

OLMO = PHRASE_SETS["olmo"].as_dict()
PHASES = ("collect", "evaluate", "distill", "sft")
Change = Callable[[Path], object]

# file of the checkpoint, its new content, what the sentence must say
FILES: list[tuple[str, str, Content, str]] = [
    ("a null config", "config.json", "null", "could not be loaded (TypeError"),
    ("an empty config", "config.json", "{}", "Should have a `model_type` key"),
    ("a list as config", "config.json", "[]", "could not be loaded (TypeError"),
    ("half a config", "config.json", '{"model_type":', "is not a valid JSON file"),
    ("a config in Latin-1", "config.json", b'{"\xe9": 1}', "is not a valid JSON file"),
    ("an unknown architecture", "config.json", {"model_type": "nowhere"}, "could not be loaded"),
    ("a null tokenizer", "tokenizer.json", "null", "its tokenizer could not be loaded"),
    ("half a tokenizer", "tokenizer.json", '{"version":', "its tokenizer could not be loaded"),
    ("a null tokenizer config", "tokenizer_config.json", "null", "its tokenizer could not be loaded"),
    ("half a generation config", "generation_config.json", '{"a":', "not readable as a generation config"),
    ("a list as generation config", "generation_config.json", "[]", "not readable as a generation config"),
    ("garbage as weights", "model.safetensors", b"garbage" * 100, "its model could not be loaded"),
    (
        "a template with a syntax error",
        "chat_template.jinja",
        "{% for %}",
        "its chat template cannot render a problem",
    ),
    ("a template that divides by 0", "chat_template.jinja", "{{ 1 / 0 }}", "ZeroDivisionError"),
    (
        "a template that raises",
        "chat_template.jinja",
        "{{ raise_exception('no') }}",
        "cannot render a problem (no)",
    ),
    (
        "a template of other messages",
        "chat_template.jinja",
        "{{ messages[7]['content'] }}",
        "cannot render a problem",
    ),
    (
        "a template that adds text to a list",
        "chat_template.jinja",
        "{{ messages + 'x' }}",
        "cannot render a problem",
    ),
    (
        "a template without the problem",
        "chat_template.jinja",
        "Hello!",
        "its chat template leaves out the problem",
    ),
    ("an empty template", "chat_template.jinja", "", "its tokenizer has no chat template"),
    ("null as metadata", "sd_zero.json", "null", "sd_zero.json: damaged (expected a JSON object, found NoneType)"),
    ("empty metadata", "sd_zero.json", "{}", "sd_zero.json: damaged (expected a JSON object, found nothing)"),
    ("a list as metadata", "sd_zero.json", "[1]", "sd_zero.json: damaged (expected a JSON object, found list)"),
    ("half of the metadata", "sd_zero.json", '{"stage": 2,', "sd_zero.json: not readable as JSON"),
    ("metadata in Latin-1", "sd_zero.json", b'{"a": "\xe9"}', "sd_zero.json: not readable as JSON"),
    ("null phrases", "sd_zero.json", {"control_phrases": None}, "damaged (control_phrases is None)"),
    ("half of the phrases", "sd_zero.json", {"control_phrases": {"0": "no"}}, "control phrases are damaged"),
    (
        "equal phrases",
        "sd_zero.json",
        {"control_phrases": {"name": "a", "0": "Again.", "1": "Again."}},
        "both are 'Again.', so nothing would tell the model which responses are wrong",
    ),
    (
        "an unknown prompt",
        "sd_zero.json",
        {"control_phrases": OLMO, "prompt": {"a": 1}},
        "prompt format is damaged",
    ),
    (
        "an index of nothing",
        "sd_zero.json",
        {"stage": 2, "files": 7},
        "the index of files in its sd_zero.json is damaged",
    ),
    (
        "files that are gone",
        "sd_zero.json",
        {"files": {"gone.safetensors": {"bytes": 1}}},
        "gone.safetensors is missing",
    ),
]
NOT_READ_BY_SFT = ("metadata", "phrases", "unknown prompt", "index", "gone")


def shorten(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def published(*changes: Change) -> tuple[Change, ...]:
    """A finished checkpoint that changes afterwards."""

    def publish(model: Path) -> None:
        write_metadata(model, {"control_phrases": QWEN.as_dict(), "mode": "math"})

    return (publish, *changes)


def with_nan(model: Path) -> None:
    change_weights(model, lambda weights: weights["model.norm.weight"].fill_(torch.nan))


def other_weights(model: Path) -> None:
    change_weights(model, lambda weights: weights["model.norm.weight"].fill_(0.5))


def more_tokens(model: Path) -> None:
    """A token beyond the embedding, which the template writes."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["<|beyond|>"], special_tokens=True)
    tokenizer.chat_template = "<|beyond|>" + tokenizer.chat_template
    tokenizer.save_pretrained(model)


CHANGES: list[tuple[str, tuple[Change, ...], str]] = [
    (
        "a missing tensor",
        (lambda m: change_weights(m, lambda w: w.pop("model.layers.1.mlp.up_proj.weight")),),
        "tensors missing: 1 (the first: model.layers.1.mlp.up_proj.weight)",
    ),
    (
        "a tensor of another shape",
        (lambda m: change_weights(m, lambda w: w.update({"model.norm.weight": torch.ones(64)})),),
        "tensors of another shape than its config says: 1 (the first: model.norm.weight)",
    ),
    ("weights with NaN", (with_nan,), "its tensor model.norm.weight contains NaN"),
    ("no weights", (lambda m: (m / "model.safetensors").unlink(),), ": a checkpoint without weights (no "),
    ("weights cut off", (shorten,), "its model could not be loaded"),
    ("a tokenizer beyond the embedding", (more_tokens,), "its tokenizer writes '<|beyond|>' as token"),
    ("no template", (lambda m: (m / "chat_template.jinja").unlink(),), "its tokenizer has no chat template"),
    ("no config", (lambda m: (m / "config.json").unlink(),), "no checkpoint, since it has no config.json"),
    ("weights deleted", published(lambda m: (m / "model.safetensors").unlink()), "model.safetensors is missing"),
    ("weights cut later", published(shorten), "model.safetensors has "),
    ("weights replaced later", published(other_weights), "model.safetensors has another content"),
]
SEEN_LATER_BY_SFT = ("later", "deleted")


def above(place: Place) -> dict:
    place.model(lambda model: model.rename(place.folder / "model_") and (place.folder / "model").mkdir())
    (place.folder / "model_").rename(place.folder / "model" / "stage2")
    return {MODEL_KNOB[place.entry_point]: place.folder / "model"}


def teacher(place: Place, **metadata: object) -> dict:
    folder = Path(str(place.model(lambda model: write_metadata(model, metadata))["STUDENT_MODEL"]))
    return {"STUDENT_MODEL": place.tiny, "TEACHER_MODEL": folder}


def phases(index: int, name: str, skipped: tuple[str, ...]) -> str:
    """The entry points take turns; SFT does not read the metadata of its base model."""
    phase = PHASES[index % len(PHASES)]
    return "collect" if phase == "sft" and any(part in name for part in skipped) else phase


CASES = [
    *(
        Case(f"{phase}: {name}", phase, lambda p, f=file, c=content: p.model_file(f, c), sentence)
        for index, (name, file, content, sentence) in enumerate(FILES)
        for phase in (phases(index, name, NOT_READ_BY_SFT),)
    ),
    *(
        Case(f"{phase}: {name}", phase, lambda p, c=changes: p.model(*c), sentence)
        for index, (name, changes, sentence) in enumerate(CHANGES)
        for phase in (phases(index, name, SEEN_LATER_BY_SFT),)
    ),
    *(Case(f"{phase}: the folder above", phase, above, "has no config.json; did you mean ") for phase in PHASES),
    *(
        Case(
            f"{phase}: no such model",
            phase,
            lambda p: {MODEL_KNOB[p.entry_point]: "/no/model"},
            "/no/model: no such",
        )
        for phase in PHASES
    ),
    *(
        Case(
            f"{phase}: a file as model",
            phase,
            lambda p: {MODEL_KNOB[p.entry_point]: p.write("model", "")},
            "a file; expected a checkpoint folder",
        )
        for phase in PHASES
    ),
    Case("no model", "evaluate", lambda p: {"MODEL_PATH": ""}, "MODEL_PATH is not set"),
    Case("an empty model", "collect", lambda p: {"MODEL_PATH": " "}, "MODEL_PATH is empty: expected base model"),
    Case("an empty base model", "sft", lambda p: {"BASE_MODEL": ""}, "BASE_MODEL is empty: expected model"),
    Case(
        "another mode",
        "evaluate",
        lambda p: p.model(lambda model: write_metadata(model, {"mode": "code"})),
        "MODE=math contradicts",
    ),
    Case(
        "other phrases",
        "distill",
        lambda p: (
            p.model(lambda model: write_metadata(model, {"control_phrases": OLMO})) | {"CONTROL_PHRASES": "qwen"}
        ),
        "CONTROL_PHRASES=qwen contradicts",
    ),
    Case(
        "a teacher of other phrases",
        "distill",
        lambda p: teacher(p, control_phrases=OLMO),
        "was trained on other sequences than the student (control_phrases is 'olmo', the student's 'qwen')",
    ),
    Case(
        "a teacher of another mode",
        "distill",
        lambda p: teacher(p, mode="code"),
        "MODE=math contradicts TEACHER_MODEL",
    ),
    Case(
        "a teacher with another tokenizer",
        "distill",
        lambda p: {"TEACHER_MODEL": next(iter(p.model(more_tokens).values())), "STUDENT_MODEL": p.tiny},
        "its tokenizer differs from the student's",
    ),
    Case(
        "a probe of another template",
        "distill",
        lambda p: p.model_file("sd_zero.json", json.dumps({"prompt_probe": "<think>", "mode": "math"})),
        "its chat template puts another thinking mode into its prompts",
    ),
]
