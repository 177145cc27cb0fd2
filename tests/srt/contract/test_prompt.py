"""The prompt format: system message, suffix, arguments of the chat template, and the date that it writes."""

import datetime

import pytest

from srt.common.errors import UserError
from srt.config_groups import PromptConfig
from srt.contract.layout import MODE_SUFFIXES, Layout, PromptFormat
from tests.srt.helpers.layouts import (
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
