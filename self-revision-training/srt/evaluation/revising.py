"""REVISE: which responses are revised, and after which phrase."""

from srt.contract.phrases import PhraseSet
from srt.evaluation.config import ALWAYS, NONE, ORACLE


def revised_rewards(mode: str) -> frozenset[int]:
    """The rewards of the responses that are revised."""
    return frozenset() if mode == NONE else frozenset({0, 1})


def cue_of(mode: str) -> int | None:
    """The reward whose phrase all revisions follow; None with the oracle, which knows that of each response."""
    return {ORACLE: None, NONE: None, ALWAYS: 0}[mode]


def phrase_after(mode: str, phrases: PhraseSet, r: int) -> str | None:
    """The phrase after which a response with reward r is revised; None if it is not."""
    if r not in revised_rewards(mode):
        return None
    cue = cue_of(mode)
    return phrases.text(r if cue is None else cue)
