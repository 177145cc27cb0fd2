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

from dataclasses import dataclass
from typing import Any

from srt.common.errors import UserError
from srt.contract.phrases import PhraseSet
from srt.contract.prompt import MODE_SUFFIXES, PromptFormat

__all__ = ["MODE_SUFFIXES", "Layout", "PromptFormat", "TokenSequence", "predicting_positions"]

QUESTION, ANSWER = "zqxquestion", "zqxanswer"  # messages that no template contains


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

    `eot_ids`: the model's end-of-turn tokens, from its generation config. A response ends at any of them, and at
    the token with which the chat template itself ends a turn (`eot`), which is the one that is trained on.
    Raises UserError when the tokenizer has no chat template, or its template refuses the prompt format.
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
        template_eot = self._template_eot()
        self.eot = eot_ids[0] if template_eot is None else template_eot
        self.eot_ids = list(dict.fromkeys([*eot_ids, self.eot]))
        if len(self.eot_ids) > len(eot_ids):
            named = [f"{tokenizer.convert_ids_to_tokens(eot)} ({eot})" for eot in self.eot_ids]
            print(
                f"end of turn: the chat template of {tokenizer.name_or_path} ends a turn with {named[-1]}, which "
                f"is not among the model's eos tokens ({', '.join(named[:-1])}); responses end at either"
            )
        texts: dict[int | None, str] = {r: f"\n\n{phrases.text(r)}\n\n" for r in (0, 1)} | {None: "\n\n"}
        self._cues = {r: tokenizer.encode(text, add_special_tokens=False) for r, text in texts.items()}

    def chat(self, x: str) -> list[int]:
        """chat(x), which ends with the opening of the assistant's turn."""
        ids = self.prompt.render(
            self.tokenizer,
            self.prompt.messages(x),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
        return list(ids)

    def prompt_probe(self) -> str:
        """The text of chat(QUESTION): equal for templates and settings that render prompts alike."""
        messages = self.prompt.messages(QUESTION)
        return self.prompt.render(self.tokenizer, messages, add_generation_prompt=True, tokenize=False)

    def render_answer(self, y: str) -> str:
        """The text of a chat in which y is the answer. Raises UserError for a template of prompts only."""
        return self.prompt.render(self.tokenizer, self.prompt.messages(QUESTION, y), tokenize=False)

    def _template_eot(self) -> int | None:
        """The first special token that the template writes after an assistant's message; None if there is none."""
        self.chat(QUESTION)  # a system prompt or kwargs that the template refuses are refused here
        if QUESTION not in (prompt := self.prompt_probe()):
            raise UserError(
                f"{self.tokenizer.name_or_path}: its chat template leaves out the problem (it renders "
                f"{prompt[:80]!r} whatever is asked); correct chat_template.jinja or CHAT_TEMPLATE_KWARGS"
            )
        try:
            text = self.render_answer(ANSWER)
        except UserError:  # a template for prompts only
            return None
        _, _, after = text.partition(ANSWER)
        added = getattr(self.tokenizer, "added_tokens_decoder", {})
        special = {*self.tokenizer.all_special_ids, *(index for index, token in added.items() if token.special)}
        ids = self.tokenizer.encode(after, add_special_tokens=False)
        return next((index for index in ids if index in special), None)

    def cue(self, r: int | None) -> list[int]:
        """What stands between y and its revision; None: only the blank line, without a control phrase."""
        return list(self._cues[r])

    def decode(self, y: list[int]) -> str:
        """y as text for the verifier and for readers: without end of turn and other special tokens."""
        return self.tokenizer.decode(self.without_eot(y), skip_special_tokens=True)

    def without_eot(self, y: list[int]) -> list[int]:
        return y[:-1] if y and y[-1] in self.eot_ids else y

    def with_eot(self, y: list[int]) -> list[int]:
        return y if y and y[-1] in self.eot_ids else [*y, self.eot]

    def revision_prompt(self, chat: list[int], y_init: list[int], r: int | None) -> list[int]:
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

    def teacher_sequence(self, chat: list[int], y: list[int], r: int | None) -> TokenSequence:
        """chat(x) + y + cue(r) + y; the second y is the student's, token for token."""
        prompt = self.revision_prompt(chat, y, r)
        return TokenSequence(prompt + y, start=len(prompt))

    def fit_to_teacher(self, chat: list[int], y: list[int], r: int | None, max_teacher_tokens: int) -> list[int]:
        """y, shortened so that the teacher's sequence fits; for student and teacher alike, after grading."""
        room = max_teacher_tokens - len(chat) - len(self.cue(r))
        return y if len(self.without_eot(y)) + len(y) <= room else y[: max(0, room // 2)]
