"""The same y under different cues: P_0, P_1, no phrase, and a sentence that says nothing about it."""

from dataclasses import dataclass, replace

from opsd.pairs import SequencePair, build_pair
from opsd.rollouts import Rollout
from srt.contract.layout import Layout
from srt.contract.phrases import PhraseSet

P_0, P_1, NO_PHRASE, NEUTRAL = "P_0", "P_1", "none", "neutral"
ACTUAL = {0: P_0, 1: P_1}  # the variant that training uses, by reward


@dataclass(frozen=True)
class Variants:
    """`cues`: name -> the layout and the reward with which the sequence builder makes the variant's cue."""

    cues: dict[str, tuple[Layout, int]]

    @classmethod
    def open(cls, layout: Layout, neutral: str) -> "Variants":
        """`neutral`: the sentence of NEUTRAL. Without a phrase, the cue is the blank lines around it alone."""

        def with_phrase(name: str, text: str) -> Layout:
            return Layout(layout.tokenizer, PhraseSet(name, text, text), layout.prompt, layout.eot_ids)

        return cls(
            {
                P_0: (layout, 0),
                P_1: (layout, 1),
                NO_PHRASE: (with_phrase(NO_PHRASE, ""), 0),
                NEUTRAL: (with_phrase(NEUTRAL, neutral), 0),
            }
        )

    def sequences(
        self, rollout: Rollout, max_teacher_tokens: int, compare: bool
    ) -> tuple[SequencePair, dict[str, SequencePair]]:
        """The pair of training, and with `compare` those of the other variants by name.

        All of them supervise the same tokens: y is shortened to what the longest cue leaves room for.
        """
        actual = ACTUAL[rollout.r]
        names = list(self.cues) if compare else [actual]
        y = rollout.y
        for name in names:
            layout, r = self.cues[name]
            fitting = layout.fit_to_teacher(rollout.chat, rollout.y, r, max_teacher_tokens)
            y = fitting if len(fitting) < len(y) else y
        pairs = {}
        for name in names:
            layout, r = self.cues[name]
            pairs[name] = build_pair(replace(rollout, y=y, r=r), layout, max_teacher_tokens)
        return pairs.pop(actual), pairs
