"""The token layout: the only place where token ids are put together.

    chat(x)  = tokenizer.apply_chat_template([system?, user: x + prompt suffix], add_generation_prompt=True)
    cue(r)   = tokens of "\\n\\n" + P_r + "\\n\\n"
    eot      = end of turn; y- is y without it, y+ is y with it

    used in              sequence                                 supervised
    sampling y_init      chat(x)
    sampling y_revised   chat(x) + y_init- + cue(r)
    SFT stage 1          chat(x) + y_init- + cue(r) + y_revised+  everything after chat(x)
    SFT stage 2          the same                                 y_revised+
    Phase 2, student     chat(x) + y                              y (with eot if the model ended it)
    Phase 2, teacher     chat(x) + y- + cue(r) + y                the second y, token for token the student's

Everything is concatenated from ids; decoded text is never tokenized again. The supervised tokens are always a
suffix, so a training sequence is its ids and the position where supervision starts.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from srt.common.errors import UserError
from srt.config_groups import PromptConfig
from srt.contract.phrases import PhraseSet

MODE_SUFFIXES = {
    "math": "Please reason step by step, and put your final answer within \\boxed{}.",
    "code": "Please reason step by step, and put your final program in one fenced code block.",
}


@dataclass(frozen=True)
class PromptFormat:
    """How a problem becomes a prompt; the same in sampling, SFT, Phase 2 and evaluation."""

    system_prompt: str | None = None
    prompt_suffix: str = MODE_SUFFIXES["math"]
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_config(cls, config: PromptConfig) -> "PromptFormat":
        """Unset options (None) get the mode's defaults. Raises UserError for kwargs that are not a JSON object."""
        kwargs: Any = {}
        if config.chat_template_kwargs:
            try:
                kwargs = json.loads(config.chat_template_kwargs)
            except json.JSONDecodeError:
                kwargs = None
        if not isinstance(kwargs, dict):
            raise UserError(
                f"CHAT_TEMPLATE_KWARGS={config.chat_template_kwargs}: expected a JSON object, such as "
                '{"enable_thinking": false}'
            )
        suffix = MODE_SUFFIXES[config.mode] if config.prompt_suffix is None else config.prompt_suffix
        return cls(config.system_prompt or None, suffix, kwargs)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class TokenSequence:
    """Token ids, supervised from position `start` to the end."""

    ids: list[int]
    start: int


def predicting_positions(sequence: TokenSequence) -> range:
    """Positions whose logits predict the supervised tokens: the token at t is predicted at t - 1."""
    return range(sequence.start - 1, len(sequence.ids) - 1)


class Layout:
    """Builds the sequences in the table above for one tokenizer, phrase set and prompt format.

    `eot_ids`: the model's end-of-turn tokens, from its generation config.
    Raises UserError when the tokenizer has no chat template.
    """

    def __init__(self, tokenizer: Any, phrases: PhraseSet, prompt: PromptFormat, eot_ids: list[int]):
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(
                f"{tokenizer.name_or_path}: its tokenizer has no chat template; use an instruct model, or add "
                "a chat_template.jinja to the checkpoint"
            )
        self.tokenizer = tokenizer
        self.phrases = phrases
        self.prompt = prompt
        self.eot_ids = list(eot_ids)
        self._cues = tuple(
            tokenizer.encode(f"\n\n{phrases.text(r)}\n\n", add_special_tokens=False) for r in (0, 1)
        )

    def chat(self, x: str) -> list[int]:
        """chat(x), which ends with the opening of the assistant's turn."""
        content = f"{x}\n\n{self.prompt.prompt_suffix}" if self.prompt.prompt_suffix else x
        messages = [{"role": "user", "content": content}]
        if self.prompt.system_prompt:
            messages.insert(0, {"role": "system", "content": self.prompt.system_prompt})
        ids = self.tokenizer.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
            **self.prompt.chat_template_kwargs,
        )
        return list(ids)

    def cue(self, r: int) -> list[int]:
        return list(self._cues[r])

    def decode(self, y: list[int]) -> str:
        """y as text for the verifier and for readers: without end of turn and other special tokens."""
        return self.tokenizer.decode(self.without_eot(y), skip_special_tokens=True)

    def without_eot(self, y: list[int]) -> list[int]:
        return y[:-1] if y and y[-1] in self.eot_ids else y

    def with_eot(self, y: list[int]) -> list[int]:
        return y if y and y[-1] in self.eot_ids else [*y, self.eot_ids[0]]

    def revision_prompt(self, chat: list[int], y_init: list[int], r: int) -> list[int]:
        """The prompt that y_revised is sampled from: chat(x) + y_init + cue(r)."""
        return [*chat, *self.without_eot(y_init), *self.cue(r)]

    def sft_sequence(
        self, stage: int, chat: list[int], y_init: list[int], r: int, y_revised: list[int]
    ) -> TokenSequence:
        """Stage 1 supervises everything after chat(x); stage 2 supervises y_revised + eot of the same ids."""
        prompt = self.revision_prompt(chat, y_init, r)
        return TokenSequence(prompt + self.with_eot(y_revised), start=len(chat) if stage == 1 else len(prompt))

    def student_sequence(self, chat: list[int], y: list[int]) -> TokenSequence:
        return TokenSequence(chat + y, start=len(chat))

    def teacher_sequence(self, chat: list[int], y: list[int], r: int) -> TokenSequence:
        """chat(x) + y + cue(r) + y; the second y is the student's, token for token."""
        prompt = self.revision_prompt(chat, y, r)
        return TokenSequence(prompt + y, start=len(prompt))

    def fit_to_teacher(self, chat: list[int], y: list[int], r: int, max_teacher_tokens: int) -> list[int]:
        """y, shortened so that the teacher's sequence fits; for student and teacher alike, after grading."""
        room = max_teacher_tokens - len(chat) - len(self.cue(r))
        return y if len(self.without_eot(y)) + len(y) <= room else y[: max(0, room // 2)]
