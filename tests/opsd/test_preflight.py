"""Every check of the preflight, by the fault that it is there for."""

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from opsd.local.engine import LocalEngine
from opsd.preflight import Limits, check_template, preflight
from srt.common.errors import UserError
from srt.common.models import load_model
from srt.config_groups import PromptConfig
from srt.contract.checkpoint import layout_of_checkpoint
from srt.contract.layout import Layout, TokenSequence
from srt.contract.provenance import write_metadata
from tests.opsd.helpers.problems import PROBLEMS, TOO_LONG

ROOM = {"max_total_sequence_length": 24}


def test_a_sound_run_passes_and_says_what_was_found(open_run, reviser_checkpoint, capsys):
    opened = open_run(reviser_checkpoint, PROBLEMS, **ROOM)
    preflight(opened.run, opened.engine)
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("preflight: KL ") and "; sampler and trainer agree to " in line


@pytest.mark.parametrize("knobs", [{"lora_rank": 2}, {"gradient_checkpointing": 1}, {"kl_type": "jsd"}], ids=str)
def test_a_sound_run_with_other_knobs_passes(open_run, reviser_checkpoint, knobs, capsys):
    opened = open_run(reviser_checkpoint, PROBLEMS, **ROOM, **knobs)
    preflight(opened.run, opened.engine)
    assert " without the cue, " in capsys.readouterr().out


def test_it_changes_nothing(open_run, reviser_checkpoint):
    checked, unchecked = (open_run(reviser_checkpoint, PROBLEMS, folder=name, lr=1e-3, **ROOM) for name in "ab")
    preflight(checked.run, checked.engine)
    lines = [opened.step(0) | {"seconds": None} for opened in (checked, unchecked)]
    assert lines[0] == lines[1]


def test_rows_of_the_teacher_that_are_shifted(open_run, reviser_checkpoint, monkeypatch):
    opened = open_run(reviser_checkpoint, PROBLEMS, **ROOM)
    hidden = opened.engine.teacher.hidden
    monkeypatch.setattr(opened.engine.teacher, "hidden", lambda *sequences: hidden(*sequences).roll(1, 0))
    with pytest.raises(UserError, match=r"without the cue, .* but the KL is .* \(expected at most 1e-05\)"):
        preflight(opened.run, opened.engine)


def test_a_layout_that_shifts_the_second_response(open_run, reviser_checkpoint, monkeypatch):
    sequence_of = Layout.teacher_sequence

    def shifted(self, chat, y, r):
        sequence = sequence_of(self, chat, y, r)
        return TokenSequence([*sequence.ids[1:], 0], sequence.start)

    monkeypatch.setattr(Layout, "teacher_sequence", shifted)
    opened = open_run(reviser_checkpoint, PROBLEMS, **ROOM)
    with pytest.raises(UserError, match="does not end with the student's response, token for token"):
        preflight(opened.run, opened.engine)


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_weights_that_changed(open_run, reviser_checkpoint, role):
    opened = open_run(reviser_checkpoint, PROBLEMS, **ROOM)
    with torch.no_grad():
        getattr(opened.engine, role).model.model.layers[0].mlp.up_proj.weight.mul_(1.05)
    with pytest.raises(UserError, match="weights were lost or changed"):
        preflight(opened.run, opened.engine)


def test_dropout(open_run, reviser_checkpoint, tmp_path):
    folder = shutil.copytree(reviser_checkpoint, tmp_path / "dropout")
    config = AutoConfig.from_pretrained(folder)
    config.attention_dropout = 0.2
    config.save_pretrained(folder)
    sound = open_run(folder, PROBLEMS, folder="sound", **ROOM)
    preflight(sound.run, sound.engine)  # it is turned off
    opened = open_run(folder, PROBLEMS, **ROOM)
    for layer in opened.engine.student.model.model.layers:
        layer.self_attn.attention_dropout = config.attention_dropout
    opened.engine.student.model.train()  # Phase 2 trains in evaluation mode
    with pytest.raises(UserError, match="weights were lost or changed, or dropout is on"):
        preflight(opened.run, opened.engine)


def test_a_sampler_with_other_weights(open_run, reviser_checkpoint, coin_checkpoint):
    opened = open_run(reviser_checkpoint, PROBLEMS, **ROOM)
    opened.engine.sampler.model = load_model(str(coin_checkpoint), "float32")
    with pytest.raises(
        UserError, match=r"sampler and trainer disagree on the log-probs of sampled tokens by 0\.\d+"
    ):
        preflight(opened.run, opened.engine)


def test_a_cue_that_does_not_reach_the_teacher(open_run, reviser_checkpoint, monkeypatch):
    monkeypatch.setattr(Layout, "teacher_sequence", lambda self, chat, y, r: self.student_sequence(chat, y))
    opened = open_run(reviser_checkpoint, PROBLEMS, **ROOM)
    with pytest.raises(UserError, match="with the cue the KL of student and teacher is only"):
        preflight(opened.run, opened.engine)


def test_another_teacher_is_not_expected_to_be_the_student(open_run, reviser_checkpoint, coin_checkpoint, capsys):
    opened = open_run(reviser_checkpoint, PROBLEMS, teacher=coin_checkpoint, **ROOM)
    preflight(opened.run, opened.engine)
    assert "without the cue" not in capsys.readouterr().out


def test_responses_with_a_token_that_the_teacher_does_not_have_are_left_out(
    open_run, tiny_checkpoint, tmp_path, monkeypatch
):
    student = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    vocab = student.config.vocab_size
    student.resize_token_embeddings(vocab + 64)
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "padded")
    student.save_pretrained(folder)
    opened = open_run(folder, PROBLEMS, teacher=tiny_checkpoint, **ROOM)
    with opened.engine.sampling() as sampler:
        y = [token for rollout in opened.rollout_worker.sample(sampler, PROBLEMS, 0) for token in rollout.y]
    assert max(y) >= vocab
    # A random model gives such tokens much of its probability, which the KL's vocabulary does not have.
    monkeypatch.setattr("opsd.preflight.ON_CPU", Limits(kl=1e-5, logprob_gap=1.0))
    preflight(opened.run, opened.engine)


def test_a_resumed_student_is_not_expected_to_be_its_teacher(open_run, reviser_checkpoint, grader, capsys):
    opened = open_run(reviser_checkpoint, PROBLEMS, lr=1e-2, **ROOM)
    opened.step(0)
    opened.engine.save_checkpoint(1)
    resumed = LocalEngine(opened.run, grader)
    preflight(opened.run, resumed)
    assert capsys.readouterr().out.splitlines()[-1].startswith("preflight: sampler and trainer agree")
    resumed.sampler.model = load_model(str(reviser_checkpoint), "float32")  # stale
    with pytest.raises(UserError, match="sampler and trainer disagree"):
        preflight(opened.run, resumed)


def test_problems_without_room_are_left_to_the_first_step(open_run, reviser_checkpoint):
    opened = open_run(reviser_checkpoint, [TOO_LONG], **ROOM)
    preflight(opened.run, opened.engine)


def test_it_can_be_skipped(open_run, reviser_checkpoint, coin_checkpoint):
    opened = open_run(reviser_checkpoint, PROBLEMS, preflight=0, **ROOM)
    opened.engine.sampler.model = load_model(str(coin_checkpoint), "float32")
    preflight(opened.run, opened.engine)


# The chat template ----------------------------------------------------------------------------------------


@pytest.fixture
def with_template(tiny_checkpoint, tmp_path):
    """with_template(change, **metadata) -> (layout, path) of the tiny model, its template changed."""

    def make(change, **metadata):
        folder = shutil.copytree(tiny_checkpoint, tmp_path / "templated")
        template = folder / "chat_template.jinja"
        template.write_text(change(template.read_text()))
        write_metadata(folder, metadata)
        return layout_of_checkpoint(str(folder), PromptConfig("math", None, None, "", None)), str(folder)

    return make


@pytest.mark.parametrize(
    ("filter", "found"),
    [
        ("| replace('\\n\\n', '\\n')", "writes 'zqxanswer: 1 + 2 = 3.\\\\n    indented"),
        ("| escape", "&lt;"),
        ("if message['role'] == 'user' else ''", "drops it"),
    ],
)
def test_a_template_that_changes_what_an_assistant_says(with_template, filter, found):
    layout, path = with_template(
        lambda template: template.replace("message['content']", f"(message['content'] {filter})")
    )
    with pytest.raises(UserError, match="its chat template changes what an assistant says") as error:
        check_template(layout, path)
    assert found.replace("\\\\n", "\\n") in str(error.value)


def test_another_thinking_mode_than_the_datas(with_template, tiny_checkpoint):
    def think(template):
        return template + "{% if add_generation_prompt %}<think>\n\n</think>\n\n{% endif %}"

    probe = layout_of_checkpoint(str(tiny_checkpoint), PromptConfig("math", None, None, "", None)).prompt_probe()
    layout, path = with_template(think, prompt_probe=probe)
    with pytest.raises(UserError, match="puts another thinking mode into its prompts than when the SRT data"):
        check_template(layout, path)


def test_prompts_that_only_end_otherwise_are_both_shown(with_template, tiny_checkpoint):
    probe = layout_of_checkpoint(str(tiny_checkpoint), PromptConfig("math", None, None, "", None)).prompt_probe()
    end = "{% if add_generation_prompt %}" + "and so on " * 20 + "{% endif %}"
    layout, path = with_template(lambda template: template + end, prompt_probe=probe)
    with pytest.raises(UserError) as error:
        check_template(layout, path)
    assert f"({probe[-10:] + 'and so on ' * 9!r} instead of {probe[-10:]!r})" in str(error.value)


def test_other_prompts_than_the_datas(with_template, tiny_checkpoint):
    probe = layout_of_checkpoint(str(tiny_checkpoint), PromptConfig("math", None, None, "", None)).prompt_probe()
    layout, path = with_template(lambda template: "You are helpful. " + template, prompt_probe=probe)
    with pytest.raises(UserError, match=r"renders prompts differently than .* \('You are helpful"):
        check_template(layout, path)
    write_metadata(Path(path), {"prompt_probe": layout.prompt_probe()})
    check_template(layout, path)


def test_a_template_for_prompts_only_is_accepted(with_template):
    refuses = "{% if messages[-1]['role'] == 'assistant' %}{{ raise_exception('prompts only') }}{% endif %}"
    layout, path = with_template(lambda template: refuses + template)
    check_template(layout, path)
