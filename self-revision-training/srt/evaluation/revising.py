"""REVISE: which responses are revised, and after which phrase.

    oracle      all, after the phrase of their true reward: the generate-then-revise of arXiv:2604.12002
    always      all, after the phrase of a wrong response
    confidence  those with the lowest mean log-prob per token, after the phrase of a wrong response
    none        none

The last three know no reward. A revision takes the place of its response, right or wrong.
"""

from collections.abc import Iterable

from srt.collect.collector import GREEDY
from srt.contract.phrases import PhraseSet
from srt.contract.records import SampleKey
from srt.evaluation.config import ALWAYS, CONFIDENCE, NONE, ORACLE
from srt.evaluation.samples import EvaluatedSample


def revised_rewards(mode: str) -> frozenset[int]:
    """The rewards of the responses that are revised."""
    return frozenset() if mode == NONE else frozenset({0, 1})


def cue_of(mode: str) -> int | None:
    """The reward whose phrase all revisions follow; None with the oracle, which knows that of each response."""
    return {ORACLE: None, NONE: None, ALWAYS: 0, CONFIDENCE: 0}[mode]


def phrase_after(mode: str, phrases: PhraseSet, r: int) -> str | None:
    """The phrase after which a response with reward r is revised; None if it is not."""
    if r not in revised_rewards(mode):
        return None
    cue = cue_of(mode)
    return phrases.text(r if cue is None else cue)


def least_confident(samples: Iterable[EvaluatedSample], share: float) -> frozenset[SampleKey]:
    """The `share` of the responses with the lowest mean log-prob per token; those without one come first."""
    ranked = sorted(
        (-float("inf") if sample.logprob is None else sample.logprob / max(sample.tokens, 1), sample.key[:2])
        for sample in samples
        if sample.key.revision is None and sample.key.response != GREEDY
    )
    return frozenset(SampleKey(*key) for _, key in ranked[: round(share * len(ranked))])
