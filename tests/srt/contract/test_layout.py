"""The token layout: every sequence of the contract, token by token, for two styles of chat template."""

import datetime

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from srt.common.errors import UserError
from srt.common.models import load_model, load_tokenizer
from srt.config_groups import PromptConfig
from srt.contract.layout import MODE_SUFFIXES, Layout, PromptFormat, predicting_positions
from srt.contract.phrases import PHRASE_SETS, PhraseSet

# A period and a blank line become one token when tokenized together, as in real vocabularies.
VOCAB = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<think>",
    "</think>",
    "system",
    "user",
    "assistant",
    "\n",
    "\n\n",
    ".\n\n",
    ".",
    " ",
    "Add",
    "1",
    "2",
    "3",
    "Think",
    "Brief",
    "Help",
    "No",
    "Ok",
    "?",
]
PIECES = r"<\|\w+\|>|</?think>|\.\n\n|\n\n|\n|\.| |\w+"
PHRASES = PhraseSet("short", wrong="No.", right="Ok.")
THINK = PromptFormat(prompt_suffix="Think")

QWEN_STYLE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""

# Starts with a BOS token, and adds its own system message if none is given.
OLMO_STYLE = """\
{{- bos_token }}
{%- if messages[0].role != 'system' %}{{- '<|im_start|>system\\nHelp<|im_end|>\\n' }}{%- endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

QWEN_CHAT = [
    "<|im_start|>",
    "user",
    "\n",
    "Add",
    " ",
    "1",
    "\n\n",
    "Think",
    "<|im_end|>",
    "\n",
    "<|im_start|>",
    "assistant",
    "\n",
]
OLMO_CHAT = ["<|endoftext|>", "<|im_start|>", "system", "\n", "Help", "<|im_end|>", "\n", *QWEN_CHAT]
CUE = {0: ["\n\n", "No", ".\n\n"], 1: ["\n\n", "Ok", ".\n\n"]}
EOT = "<|im_end|>"


def new_tokenizer(template: str | None, adds_bos: bool = False) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(VOCAB)}, unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), behavior="isolated")
    core.decoder = decoders.Fuse()
    if adds_bos:
        core.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|endoftext|>",
        eos_token=EOT,
        additional_special_tokens=["<|im_start|>"],
        name_or_path="some/model",
    )
    tokenizer.chat_template = template
    return tokenizer


def new_layout(style: str = "qwen", prompt: PromptFormat = THINK) -> Layout:
    tokenizer = new_tokenizer(*{"qwen": (QWEN_STYLE, False), "olmo": (OLMO_STYLE, True)}[style])
    return Layout(tokenizer, PHRASES, prompt, eot_ids=[2, 0])


def ids(tokens: list[str]) -> list[int]:
    return [VOCAB.index(token) for token in tokens]


def tokens(ids_: list[int]) -> list[str]:
    return [VOCAB[index] for index in ids_]


@pytest.fixture(params=["qwen", "olmo"])
def style(request):
    """A layout of each style, and its chat(x) for x = "Add 1"."""
    return new_layout(request.param), {"qwen": QWEN_CHAT, "olmo": OLMO_CHAT}[request.param]


Y = ["1", "."]
Y_REVISED = ["2", "."]


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


# Prompt format ------------------------------------------------------------------------------------------


def test_system_message(style):
    layout, _ = style
    with_system = Layout(layout.tokenizer, PHRASES, PromptFormat("Brief", "Think"), [2])
    bos = ["<|endoftext|>"] if "Help" in tokens(layout.chat("Add 1")) else []
    system = ["<|im_start|>", "system", "\n", "Brief", EOT, "\n"]
    assert tokens(with_system.chat("Add 1")) == bos + system + QWEN_CHAT


def test_no_suffix_adds_nothing():
    chat = tokens(new_layout(prompt=PromptFormat(prompt_suffix="")).chat("Add 1"))
    assert chat == [token for token in QWEN_CHAT if token not in ("\n\n", "Think")]


def test_chat_template_kwargs_reach_the_template():
    prompt = PromptFormat(prompt_suffix="Think", chat_template_kwargs={"enable_thinking": False})
    chat = tokens(new_layout(prompt=prompt).chat("Add 1"))
    assert chat == [*QWEN_CHAT, "<think>", "\n\n", "</think>", "\n\n"]


def test_a_tokenizer_that_adds_bos_adds_it_once_and_never_inside():
    layout = new_layout("olmo")
    assert layout.tokenizer.encode("1") == [0, 14]  # it does add BOS
    sequence = layout.sft_sequence(1, layout.chat("Add 1"), ids(Y), 0, ids(Y_REVISED))
    assert sequence.ids.count(0) == 1 and sequence.ids[0] == 0


def test_prompt_format_from_config():
    assert PromptFormat.from_config(PromptConfig("math", None, None, None, None)) == PromptFormat()
    assert (
        PromptFormat.from_config(PromptConfig("code", None, None, None, None)).prompt_suffix
        == MODE_SUFFIXES["code"]
    )
    assert PromptFormat.from_config(PromptConfig("math", None, "", "", "")) == PromptFormat(None, "", {})
    given = PromptFormat.from_config(PromptConfig("math", None, "Brief", "Think", '{"enable_thinking": false}'))
    assert given == PromptFormat("Brief", "Think", {"enable_thinking": False})
    assert PromptFormat(**given.as_dict()) == given


@pytest.mark.parametrize("kwargs", ["{enable_thinking: false}", "[1]", "true", "null", '{"a": NaN}'])
def test_chat_template_kwargs_that_are_not_an_object(kwargs):
    with pytest.raises(UserError, match="CHAT_TEMPLATE_KWARGS=.*expected a JSON object"):
        PromptFormat.from_config(PromptConfig("math", None, None, None, kwargs))


def test_a_tokenizer_without_chat_template_is_refused():
    with pytest.raises(UserError, match="some/model: its tokenizer has no chat template; use an instruct model"):
        Layout(new_tokenizer(None), PHRASES, PromptFormat(), [2])


@pytest.mark.parametrize("name", ["tokenize", "return_dict", "add_generation_prompt", "strftime_now"])
def test_chat_template_kwargs_that_are_no_variable_of_a_template_are_refused(name):
    with pytest.raises(UserError, match=f"CHAT_TEMPLATE_KWARGS=.*: {name} is set by this program"):
        PromptFormat.from_config(PromptConfig("math", None, None, None, f'{{"{name}": false}}'))


@pytest.mark.parametrize("knob", ["SYSTEM_PROMPT", "PROMPT_SUFFIX", "CHAT_TEMPLATE_KWARGS"])
def test_a_knob_that_is_not_unicode_is_one_sentence(knob):
    """Bytes that are not UTF-8 in an environment variable arrive as lone surrogates."""
    values: dict[str, str | None] = dict.fromkeys(("SYSTEM_PROMPT", "PROMPT_SUFFIX", "CHAT_TEMPLATE_KWARGS"))
    values[knob] = r'{"a": "\ud83d"}' if knob == "CHAT_TEMPLATE_KWARGS" else "Be\udcff"
    with pytest.raises(UserError, match=rf"{knob}: its character \d+ is not valid Unicode"):
        PromptFormat.from_config(PromptConfig("math", None, *values.values()))


NO_SYSTEM = """\
{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{%- endif %}
"""


def test_a_system_prompt_that_the_template_refuses_is_one_sentence():
    tokenizer = new_tokenizer(NO_SYSTEM + QWEN_STYLE)
    assert tokens(Layout(tokenizer, PHRASES, THINK, [2]).chat("Add 1")) == QWEN_CHAT
    with pytest.raises(UserError, match="SYSTEM_PROMPT='Brief': the chat template of some/model refuses it"):
        Layout(tokenizer, PHRASES, PromptFormat("Brief"), [2])


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('no') }}", "{{ nothing.like.it }}", "{% if %}", "{{ 1 + 'a' }}"]
)
def test_a_template_that_cannot_render_a_problem_is_one_sentence(template):
    with pytest.raises(UserError, match="some/model: its chat template cannot render a problem") as caught:
        Layout(new_tokenizer(template), PHRASES, PromptFormat(chat_template_kwargs={"a": 1}), [2])
    assert "\n" not in str(caught.value) and 'CHAT_TEMPLATE_KWARGS={"a": 1}' in str(caught.value)


# Templates that write the date --------------------------------------------------------------------------

DATED = "{{- strftime_now('%-m') }}" + QWEN_STYLE


@pytest.mark.parametrize("month", [1, 2, 3])
def test_a_template_is_given_the_stored_date_and_not_todays(month):
    prompt = PromptFormat(prompt_suffix="Think", date=f"2024-0{month}-01")
    layout = Layout(new_tokenizer(DATED), PHRASES, prompt, [2])
    assert tokens(layout.chat("Add 1")) == [str(month), *QWEN_CHAT]


def test_a_run_gets_todays_date_once_and_only_if_its_template_asks_for_one(capsys):
    today = datetime.date.today().isoformat()
    assert PromptFormat().with_date(new_tokenizer(QWEN_STYLE), None) == PromptFormat()
    assert capsys.readouterr().out == ""
    assert PromptFormat().with_date(new_tokenizer(DATED), None).date == today
    assert f"fixed to {today} for this run" in capsys.readouterr().out
    begun = PromptFormat(date="2024-07-01")
    assert PromptFormat().with_date(new_tokenizer(DATED), begun.as_dict()) == begun
    assert begun.with_date(new_tokenizer(DATED), PromptFormat(date="2020-01-01").as_dict()) == begun
    # A run from before dates were stored goes on as it began.
    assert PromptFormat().with_date(new_tokenizer(DATED), PromptFormat().as_dict()).date is None


def test_the_date_is_stored_only_where_there_is_one():
    assert "date" not in PromptFormat().as_dict()
    dated = PromptFormat(date="2024-07-01")
    assert PromptFormat(**dated.as_dict()) == dated


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
