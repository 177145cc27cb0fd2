"""The prompt format: how a problem becomes the messages of a chat, and what the chat template is given."""

import datetime
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import jinja2

from srt.common.errors import UserError
from srt.config_groups import PromptConfig

MODE_SUFFIXES = {
    "math": "Please reason step by step, and put your final answer within \\boxed{}.",
    "code": "Please reason step by step, and put your final program in one fenced code block.",
}


# Arguments of apply_chat_template that the layout sets itself, or that change what it returns. A template is given
# everything else.
RESERVED_KWARGS = frozenset(
    {
        "conversation",
        "messages",
        "chat_template",
        "add_generation_prompt",
        "continue_final_message",
        "tokenize",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "tokenizer_kwargs",
        "strftime_now",
    }
)
ASKS_FOR_THE_DATE = "strftime_now"  # the function by which a template writes the current date


@dataclass(frozen=True)
class PromptFormat:
    """How a problem becomes a prompt; the same in sampling, SFT, Phase 2 and evaluation.

    `date` (ISO): the day that a template which writes the current date is given, so that the same data has the
    same ids tomorrow; None for all other templates, and in what was stored before the date was.
    """

    system_prompt: str | None = None
    prompt_suffix: str = MODE_SUFFIXES["math"]
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    date: str | None = None

    @classmethod
    def from_config(cls, config: PromptConfig) -> "PromptFormat":
        """Unset options (None) get the mode's defaults.

        Raises UserError for kwargs that are not a JSON object or that are not the template's, and for text that is
        not Unicode.
        """
        kwargs: Any = {}
        if config.chat_template_kwargs:
            try:
                kwargs = json.loads(config.chat_template_kwargs, parse_constant=_no_constant)
            except ValueError:
                kwargs = None
        if not isinstance(kwargs, dict):
            raise UserError(
                f"CHAT_TEMPLATE_KWARGS={config.chat_template_kwargs}: expected a JSON object, such as "
                '{"enable_thinking": false}'
            )
        if reserved := sorted(RESERVED_KWARGS & set(kwargs)):
            raise UserError(
                f"CHAT_TEMPLATE_KWARGS={config.chat_template_kwargs}: {', '.join(reserved)} is set by this "
                "program and is no variable of the chat template; leave it out"
            )
        for knob in ("system_prompt", "prompt_suffix"):
            _check_unicode(knob.upper(), getattr(config, knob))
        _check_unicode("CHAT_TEMPLATE_KWARGS", json.dumps(kwargs, ensure_ascii=False))  # escapes included
        suffix = MODE_SUFFIXES[config.mode] if config.prompt_suffix is None else config.prompt_suffix
        return cls(config.system_prompt or None, suffix, kwargs)

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "PromptFormat":
        """Raises UserError for something that `as_dict` did not make."""
        try:
            prompt = cls(**stored)
        except TypeError:
            prompt = None
        if prompt is None or not isinstance(prompt.chat_template_kwargs, dict):
            raise UserError(f"the stored prompt format is damaged (found {stored!r:.200})")
        return prompt

    def as_dict(self) -> dict[str, Any]:
        """As stored in every artifact; `date` only where there is one."""
        stored = asdict(self)
        return stored if self.date else {name: value for name, value in stored.items() if name != "date"}

    def with_date(self, tokenizer: Any, begun: dict[str, Any] | None) -> "PromptFormat":
        """With a fixed date if the tokenizer's template asks for one and none is stored.

        `begun`: the prompt format of the run that is being continued, whose date (or lack of one, before dates
        were stored) is kept; None for a new run, which gets today's.
        """
        if self.date or ASKS_FOR_THE_DATE not in str(tokenizer.chat_template):
            return self
        date = _today() if begun is None else begun.get("date")
        if date and begun is None:
            print(f"the chat template writes the current date: fixed to {date} for this run")
        return replace(self, date=date)

    def messages(self, x: str, y: str | None = None) -> list[dict[str, str]]:
        """The chat in which x is asked and, if given, y is the answer."""
        content = f"{x}\n\n{self.prompt_suffix}" if self.prompt_suffix else x
        system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        answer = [] if y is None else [{"role": "assistant", "content": y}]
        return [*system, {"role": "user", "content": content}, *answer]

    def render(self, tokenizer: Any, messages: list[dict[str, str]], **options: Any) -> Any:
        """What `apply_chat_template` returns. Raises UserError when the template refuses the messages."""
        kwargs = dict(self.chat_template_kwargs)
        if self.date:
            kwargs["strftime_now"] = _strftime_of(self.date)
        try:
            return tokenizer.apply_chat_template(messages, **options, **kwargs)
        except Exception as error:  # a template is a program, which may raise anything
            reason = " ".join(str(error).split())[:300]
            if not isinstance(error, jinja2.TemplateError | TypeError | ValueError):
                reason = f"{type(error).__name__}: {reason}"
            model = tokenizer.name_or_path
            if self.system_prompt:
                try:
                    tokenizer.apply_chat_template(messages[1:], **options, **kwargs)
                except Exception:  # as above
                    pass
                else:
                    raise UserError(
                        f"SYSTEM_PROMPT={self.system_prompt!r}: the chat template of {model} refuses it "
                        f"({reason}); leave it unset, or put the text into PROMPT_SUFFIX"
                    ) from error
            raise UserError(
                f"{model}: its chat template cannot render a problem ({reason}); check CHAT_TEMPLATE_KWARGS="
                f"{json.dumps(self.chat_template_kwargs)}"
            ) from error


def _today() -> str:
    return datetime.date.today().isoformat()


def _strftime_of(date: str) -> Callable[[str], str]:
    midnight = datetime.datetime.fromisoformat(date)
    return lambda format: midnight.strftime(format)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")  # NaN differs from itself: no run with it could be continued


def _check_unicode(knob: str, text: str | None) -> None:
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{knob}: its character {error.start + 1} is not valid Unicode; write it in UTF-8"
        ) from None
