"""The token layout: every sequence of the contract, token by token, for two styles of chat template."""

import pytest
import torch

from srt.common.models import load_model, load_tokenizer
from srt.contract.layout import Layout, PromptFormat, predicting_positions
from srt.contract.phrases import PHRASE_SETS
from tests.srt.helpers.layouts import (
    CUE,
    EOT,
    PHRASES,
    QWEN_CHAT,
    QWEN_STYLE,
    THINK,
    Y_REVISED,
    Y,
    ids,
    new_layout,
    new_tokenizer,
    tokens,
)


def test_chat(style):
    layout, chat = style
    assert tokens(layout.chat("Add 1")) == chat


def test_literal_ids():
    sequence = new_layout().sft_sequence(1, new_layout().chat("Add 1"), [14, 11, 2], 0, [15, 2])
    assert sequence.ids == [1, 6, 8, 13, 12, 14, 9, 17, 2, 8, 1, 7, 8, 14, 11, 9, 20, 10, 15, 2]
    assert sequence.start == 13


@pytest.mark.parametrize("r", [0, 1])
@pytest.mark.parametrize("end", [[], [EOT]])
def test_revision_prompt_has_no_end_of_turn_before_the_cue(style, r, end):
    layout, chat = style
    assert tokens(layout.revision_prompt(ids(chat), ids(Y + end), r)) == chat + Y + CUE[r]


@pytest.mark.parametrize("r", [0, 1])
@pytest.mark.parametrize("end", [[], [EOT]])
@pytest.mark.parametrize("revised_end", [[], [EOT]])
def test_sft_sequences_differ_only_in_what_is_supervised(style, r, end, revised_end):
    layout, chat = style
    parts = (ids(chat), ids(Y + end), r, ids(Y_REVISED + revised_end))
    stage1, stage2 = layout.sft_sequence(1, *parts), layout.sft_sequence(2, *parts)
    assert tokens(stage1.ids) == chat + Y + CUE[r] + Y_REVISED + [EOT]
    assert stage2.ids == stage1.ids
    assert tokens(stage1.ids[stage1.start :]) == Y + CUE[r] + Y_REVISED + [EOT]
    assert tokens(stage2.ids[stage2.start :]) == Y_REVISED + [EOT]


@pytest.mark.parametrize("end", [[], [EOT]])
def test_student_sequence_supervises_y_including_its_end_of_turn(style, end):
    layout, chat = style
    sequence = layout.student_sequence(ids(chat), ids(Y + end))
    assert tokens(sequence.ids) == chat + Y + end
    assert tokens(sequence.ids[sequence.start :]) == Y + end


@pytest.mark.parametrize("r", [0, 1])
@pytest.mark.parametrize("end", [[], [EOT]])
def test_teacher_sequence_supervises_the_second_y_which_equals_the_students(style, r, end):
    layout, chat = style
    teacher = layout.teacher_sequence(ids(chat), ids(Y + end), r)
    student = layout.student_sequence(ids(chat), ids(Y + end))
    assert tokens(teacher.ids) == chat + Y + CUE[r] + Y + end
    assert teacher.ids[teacher.start :] == student.ids[student.start :]
    assert len(predicting_positions(teacher)) == len(predicting_positions(student))


def test_evaluation_revises_what_stage_2_learns_to_revise():
    layout = new_layout()
    prompt = layout.revision_prompt(ids(QWEN_CHAT), ids(Y + [EOT]), 0)
    sequence = layout.sft_sequence(2, ids(QWEN_CHAT), ids(Y + [EOT]), 0, ids(Y_REVISED))
    assert sequence.ids[: sequence.start] == prompt


def test_sampled_ids_are_kept_even_if_the_text_would_be_tokenized_differently():
    layout = new_layout()
    prompt = layout.revision_prompt(ids(QWEN_CHAT), ids(Y), 0)
    text = layout.tokenizer.decode(prompt)
    assert prompt != layout.tokenizer.encode(text, add_special_tokens=False)  # "." and "\n\n" merge there
    assert prompt[: len(QWEN_CHAT) + 2] == ids(QWEN_CHAT + Y)


@pytest.mark.parametrize("y", [["1"], ["1", "."], ["1", "\n\n"], ["1", ".", EOT], []])
def test_the_cue_does_not_depend_on_what_precedes_it(y):
    layout = new_layout()
    assert tokens(layout.revision_prompt([], ids(y), 1))[-3:] == CUE[1]


def test_no_method_modifies_its_arguments():
    layout, chat, y = new_layout(), ids(QWEN_CHAT), ids([*Y, EOT])
    layout.teacher_sequence(chat, y, 0).ids.append(99)
    layout.sft_sequence(1, chat, y, 0, y).ids.append(99)
    layout.student_sequence(chat, y).ids.append(99)
    layout.cue(0).append(99)
    assert (chat, y) == (ids(QWEN_CHAT), ids([*Y, EOT]))
    assert tokens(layout.cue(0)) == CUE[0]


# End of turn --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [EOT, "<|endoftext|>"])
def test_every_end_of_turn_of_the_model_counts(end):
    layout = new_layout()  # its end-of-turn ids are <|im_end|> and <|endoftext|>
    y = ids([*Y, end])
    assert tokens(layout.without_eot(y)) == Y
    assert layout.with_eot(y) == y
    assert tokens(layout.revision_prompt([], y, 0)) == Y + CUE[0]
    assert tokens(layout.teacher_sequence([], y, 0).ids) == Y + CUE[0] + Y + [end]


def test_the_first_end_of_turn_id_is_the_one_added():
    assert tokens(new_layout().with_eot(ids(Y))) == [*Y, EOT]
    assert tokens(new_layout().with_eot([])) == [EOT]


def test_an_empty_response():
    layout = new_layout()
    assert tokens(layout.teacher_sequence([], ids([EOT]), 0).ids) == [*CUE[0], EOT]
    assert tokens(layout.revision_prompt([], [], 1)) == CUE[1]


def test_decode_is_the_text_without_its_end_of_turn():
    assert new_layout().decode(ids(["Add", " ", "1", ".", EOT])) == "Add 1."


# The end of a turn --------------------------------------------------------------------------------------


@pytest.mark.parametrize("eos", [[2], [2, 0], [0, 2], [0], [4, 0]])
def test_the_templates_own_end_of_turn_is_trained_on_and_ends_responses(style, eos, capsys):
    layout = Layout(style[0].tokenizer, PHRASES, THINK, eos)
    assert tokens(layout.with_eot(ids(Y))) == [*Y, EOT]
    assert layout.with_eot([*ids(Y), eos[0]]) == [*ids(Y), eos[0]]  # what was sampled stays
    assert layout.without_eot(ids([*Y, EOT])) == ids(Y)
    assert layout.eot_ids == (eos if 2 in eos else [*eos, 2])
    printed = capsys.readouterr().out
    assert (printed == "") == (2 in eos)
    if printed:
        assert "some/model ends a turn with <|im_end|> (2), which is not among the model's eos" in printed


def test_what_the_template_writes_around_an_answer_does_not_hide_its_end_of_turn():
    template = QWEN_STYLE.replace("+ message.content", r"+ '<think>\n\n</think>\n\n' + message.content + '\n\n'")
    assert template != QWEN_STYLE
    assert Layout(new_tokenizer(template), PHRASES, THINK, [0]).eot == 2


@pytest.mark.parametrize(
    "template",
    [
        r"{%- for m in messages %}{{ m.role + '\n' + m.content + '\n' }}{%- endfor %}",  # plain text
        QWEN_STYLE.replace("+ message.content", "+ ('' if message.role == 'assistant' else message.content)"),
        "{%- if messages|length > 1 %}{{ raise_exception('one') }}{%- endif %}" + QWEN_STYLE,
    ],
)
def test_without_an_end_of_turn_in_the_template_the_first_eos_is_used(template):
    layout = Layout(new_tokenizer(template), PHRASES, THINK, [0, 2])
    assert (layout.eot, layout.eot_ids) == (0, [0, 2])


# The teacher's budget -----------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [[], [EOT]])
@pytest.mark.parametrize("spare", range(-9, 4))
def test_fit_to_teacher_keeps_y_exactly_when_the_sequence_fits(end, spare):
    layout, chat, y = new_layout(), ids(QWEN_CHAT), ids(["1", "2", "3", "1", *end])
    limit = len(layout.teacher_sequence(chat, y, 0).ids) + spare
    fitted = layout.fit_to_teacher(chat, y, 0, limit)
    sequence = layout.teacher_sequence(chat, fitted, 0)
    if spare >= 0:
        assert fitted == y
        return
    assert fitted == y[: len(fitted)] and len(fitted) < len(y)
    assert 2 not in fitted  # a shortened y has not ended
    assert len(sequence.ids) <= limit or not fitted
    longer = layout.teacher_sequence(chat, y[: len(fitted) + 1], 0)
    assert len(longer.ids) > limit  # no more was cut than had to be
    assert sequence.ids[sequence.start :] == layout.student_sequence(chat, fitted).ids[len(chat) :]


def test_fit_to_teacher_leaves_nothing_if_not_even_the_prompt_fits():
    layout = new_layout()
    assert layout.fit_to_teacher(ids(QWEN_CHAT), ids(Y), 0, 5) == []


# The shift ----------------------------------------------------------------------------------------------


def test_token_t_is_predicted_at_t_minus_1():
    layout = new_layout()
    sequence = layout.sft_sequence(2, ids(QWEN_CHAT), ids(Y), 0, ids(Y_REVISED))
    assert [sequence.ids[p + 1] for p in predicting_positions(sequence)] == sequence.ids[sequence.start :]


def test_predicting_positions_agree_with_the_models_own_loss(tiny_checkpoint):
    tokenizer, model = load_tokenizer(str(tiny_checkpoint)), load_model(str(tiny_checkpoint), "float32").eval()
    layout = Layout(tokenizer, PHRASE_SETS["qwen"], PromptFormat(), [tokenizer.eos_token_id])
    y = tokenizer.encode("A 1 + 2 = 3\n\\boxed{3}")
    sequence = layout.teacher_sequence(layout.chat("x = 1 [A] + 2"), [*y, tokenizer.eos_token_id], 0)
    batch = torch.tensor([sequence.ids])
    labels = torch.tensor([[-100] * sequence.start + sequence.ids[sequence.start :]])
    with torch.no_grad():
        output = model(input_ids=batch, labels=labels)  # transformers shifts the labels itself
    logprobs = torch.log_softmax(output.logits[0, list(predicting_positions(sequence))], dim=-1)
    loss = -logprobs.gather(-1, torch.tensor(sequence.ids[sequence.start :])[:, None]).mean()
    torch.testing.assert_close(loss, output.loss)
