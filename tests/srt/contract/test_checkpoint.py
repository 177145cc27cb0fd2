"""What a checkpoint stores wins; a knob that contradicts it is refused."""

import datetime
import json
import shutil
from dataclasses import replace

import pytest
import torch

from srt.common.errors import UserError
from srt.common.models import context_limit, eot_ids, load_model, load_tokenizer, stored_dtype
from srt.config_groups import PromptConfig
from srt.contract.checkpoint import check_same_contract, layout_of_checkpoint
from srt.contract.layout import MODE_SUFFIXES, PromptFormat
from srt.contract.phrases import PHRASE_SETS
from srt.contract.provenance import CHECKPOINT_METADATA, open_run, read_metadata, write_metadata

STORED = PromptFormat("Be brief.", "Think.", {"enable_thinking": False})


@pytest.fixture
def checkpoint(tiny_checkpoint, tmp_path):
    """A copy that tests may modify."""
    return shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")


@pytest.fixture
def srt_checkpoint(checkpoint):
    write_metadata(checkpoint, {"control_phrases": PHRASE_SETS["olmo"].as_dict(), "prompt": STORED.as_dict()})
    return checkpoint


def layout_of(path, **config):
    names = ("control_phrases", "system_prompt", "prompt_suffix", "chat_template_kwargs")
    prompt = PromptConfig(config.get("mode", "math"), *(config.get(name) for name in names))
    return layout_of_checkpoint(str(path), prompt)


def test_a_plain_model_uses_the_knobs_and_the_defaults_of_the_mode(checkpoint):
    layout = layout_of(checkpoint, control_phrases="olmo", system_prompt="Be kind.")
    assert layout.phrases == PHRASE_SETS["olmo"]
    assert layout.prompt == PromptFormat("Be kind.", MODE_SUFFIXES["math"], {})
    assert layout_of(checkpoint, mode="code").prompt.prompt_suffix == MODE_SUFFIXES["code"]


def test_unset_knobs_use_what_the_checkpoint_was_trained_with(srt_checkpoint):
    layout = layout_of(srt_checkpoint)
    assert layout.phrases == PHRASE_SETS["olmo"]
    assert layout.prompt == STORED


def test_knobs_that_agree_are_accepted(srt_checkpoint):
    layout = layout_of(
        srt_checkpoint,
        control_phrases="olmo",
        system_prompt="Be brief.",
        prompt_suffix="Think.",
        chat_template_kwargs='{"enable_thinking": false}',
    )
    assert layout.prompt == STORED


@pytest.mark.parametrize(
    ("name", "value", "stored"),
    [
        ("control_phrases", "qwen", "olmo"),
        ("system_prompt", "Be kind.", "Be brief."),
        ("system_prompt", "", "Be brief."),
        ("prompt_suffix", "", "Think."),
        ("chat_template_kwargs", "{}", "enable_thinking"),
    ],
)
def test_a_contradicting_knob_is_refused_with_both_values(srt_checkpoint, name, value, stored):
    with pytest.raises(UserError) as caught:
        layout_of(srt_checkpoint, **{name: value})
    for part in (name.upper(), value, stored, str(srt_checkpoint), "leave the knob unset"):
        assert part in str(caught.value)


# The mode -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "stored"), [("code", "math"), ("math", "code")])
def test_a_checkpoint_of_the_other_mode_is_refused(checkpoint, mode, stored):
    write_metadata(checkpoint, {"mode": stored, "prompt": STORED.as_dict()})
    with pytest.raises(UserError, match=f"MODE={mode} contradicts {checkpoint}.*set MODE={stored}"):
        layout_of(checkpoint, mode=mode)
    assert layout_of(checkpoint, mode=stored).prompt == STORED


def test_a_checkpoint_without_a_mode_still_loads(srt_checkpoint):
    assert layout_of(srt_checkpoint, mode="code").prompt == STORED


# The date -----------------------------------------------------------------------------------------------


def test_a_run_keeps_the_date_that_it_began_with(checkpoint, tmp_path):
    template = checkpoint / "chat_template.jinja"
    template.write_text("{{- strftime_now('%d') }}" + template.read_text())
    today = datetime.date.today().isoformat()
    config = PromptConfig("math", *[None] * 4)
    first = layout_of_checkpoint(str(checkpoint), config, tmp_path / "run")
    assert first.prompt.date == today
    begun = PromptFormat(date="2024-07-01")
    open_run(tmp_path / "run", {"prompt": begun.as_dict()}, {})
    again = layout_of_checkpoint(str(checkpoint), config, tmp_path / "run")
    assert again.prompt.date == "2024-07-01" and again.chat("x") != first.chat("x")
    # What the checkpoint was trained with wins.
    write_metadata(checkpoint, {"prompt": PromptFormat(date="2023-01-01").as_dict()})
    assert layout_of_checkpoint(str(checkpoint), config, tmp_path / "run").prompt.date == "2023-01-01"


# The teacher --------------------------------------------------------------------------------------------


def test_a_teacher_that_was_trained_alike_or_that_stores_nothing_is_accepted(srt_checkpoint, tiny_checkpoint):
    layout = layout_of(srt_checkpoint)
    check_same_contract(str(srt_checkpoint), "math", layout)
    check_same_contract(str(tiny_checkpoint), "math", layout)
    dated = replace(STORED, date="2024-07-01").as_dict()
    write_metadata(srt_checkpoint, {"control_phrases": PHRASE_SETS["olmo"].as_dict(), "prompt": dated})
    check_same_contract(str(srt_checkpoint), "math", layout)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"mode": "code"}, "MODE=math contradicts TEACHER_MODEL="),
        ({"control_phrases": PHRASE_SETS["qwen"].as_dict()}, "control_phrases is 'qwen', the student's 'olmo'"),
        ({"prompt": replace(STORED, prompt_suffix="").as_dict()}, "prompt_suffix is '', the student's 'Think.'"),
        ({"prompt": replace(STORED, system_prompt=None).as_dict()}, "system_prompt is None, the student's 'Be"),
        ({"prompt": replace(STORED, chat_template_kwargs={}).as_dict()}, "chat_template_kwargs is {}, the stud"),
    ],
)
def test_a_teacher_that_was_trained_otherwise_is_refused(srt_checkpoint, tmp_path, stored, message):
    layout = layout_of(srt_checkpoint)
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    write_metadata(teacher, stored)
    with pytest.raises(UserError) as caught:
        check_same_contract(str(teacher), "math", layout)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_metadata_round_trip(srt_checkpoint, tiny_checkpoint):
    assert PromptFormat(**read_metadata(str(srt_checkpoint))["prompt"]) == STORED
    assert read_metadata(str(tiny_checkpoint)) is None


def test_broken_metadata_is_named(checkpoint):
    (checkpoint / CHECKPOINT_METADATA).write_text("{")
    with pytest.raises(UserError, match=f"{CHECKPOINT_METADATA}: not readable as JSON"):
        layout_of(checkpoint)


# Loading ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [load_tokenizer, load_model, context_limit, stored_dtype])
@pytest.mark.parametrize("path", ["/no/such/folder", "./nowhere", "a/b/c"])
def test_a_missing_checkpoint_folder_is_named(load, path):
    with pytest.raises(UserError, match=f"{path}: no such checkpoint folder"):
        load(path)


@pytest.mark.parametrize("load", [load_tokenizer, load_model, context_limit, stored_dtype])
def test_a_folder_without_a_checkpoint_is_named(load, tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}: no checkpoint, since it has no config.json") as caught:
        load(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_truncated_weights_are_named(checkpoint):
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(UserError, match=f"{checkpoint}: its model could not be loaded"):
        load_model(str(checkpoint))


def test_a_model_without_chat_template_is_refused_by_name(checkpoint):
    (checkpoint / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match=f"{checkpoint}: its tokenizer has no chat template"):
        layout_of(checkpoint)


def test_end_of_turn_ids_come_from_the_generation_config_in_its_order(checkpoint):
    config = json.loads((checkpoint / "generation_config.json").read_text())
    (checkpoint / "generation_config.json").write_text(json.dumps(config | {"eos_token_id": [7, 2]}))
    assert layout_of(checkpoint).eot_ids == [7, 2]


def test_without_generation_config_the_tokenizers_eos_ends_a_turn(checkpoint):
    (checkpoint / "generation_config.json").unlink()
    tokenizer = load_tokenizer(str(checkpoint))
    assert eot_ids(str(checkpoint), tokenizer) == [tokenizer.eos_token_id]
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="names an eos token"):
        eot_ids(str(checkpoint), tokenizer)


def test_context_limit_and_stored_dtype_come_from_the_config(checkpoint):
    assert context_limit(str(checkpoint)) == 512
    assert stored_dtype(str(checkpoint)) == torch.float32
    load_model(str(checkpoint)).to(torch.bfloat16).save_pretrained(checkpoint)
    assert stored_dtype(str(checkpoint)) == torch.bfloat16
