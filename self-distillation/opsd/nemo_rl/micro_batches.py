"""One update's pairs -> the micro-batches of every data-parallel rank.

The ranks of an FSDP model gather each other's weights in every layer, so all of them must make the same number of
passes, and the longest micro-batch of a round determines its duration.
"""

from dataclasses import dataclass

from opsd.pairs import SequencePair, micro_batches
from srt.contract.layout import TokenSequence


@dataclass(frozen=True)
class PairIds:
    """What a worker needs of a pair."""

    student: TokenSequence
    teacher: TokenSequence


@dataclass(frozen=True)
class RankUpdate:
    """One optimizer step of one rank. `tokens`: supervised tokens of the whole update, its only denominator.

    For an empty micro-batch the rank runs a dummy pass to stay in step with the collectives.
    """

    micro_batches: list[list[PairIds]]
    tokens: int


def assign_micro_batches(pairs: list[SequencePair], ranks: int, tokens: int) -> list[list[list[SequencePair]]]:
    """Each rank's micro-batches, equally many for every rank; every pair is in exactly one.

    tokens: teacher tokens, padding included, of one micro-batch. Micro-batch i of all ranks is one round; rounds
    consist of micro-batches of similar size.
    """
    batches = list(micro_batches(pairs, tokens))
    rounds = -(-len(batches) // ranks)
    while len(batches) < rounds * ranks:
        divisible = [batch for batch in batches if len(batch) > 1]
        if not divisible:
            break
        largest = max(divisible, key=_padded_tokens)
        index, middle = batches.index(largest), len(largest) // 2
        batches[index : index + 1] = [largest[:middle], largest[middle:]]
    batches.sort(key=_padded_tokens)
    batches = [[] for _ in range(rounds * ranks - len(batches))] + batches
    return [batches[rank::ranks] for rank in range(ranks)]


def rank_updates(assigned: list[list[list[SequencePair]]]) -> list[RankUpdate]:
    """What is sent to each rank: ids only, without the problems and their test cases."""
    tokens = sum(len(pair.targets) for rank in assigned for batch in rank for pair in batch)
    return [
        RankUpdate([[PairIds(pair.student, pair.teacher) for pair in batch] for batch in rank], tokens)
        for rank in assigned
    ]


def _padded_tokens(batch: list[SequencePair]) -> int:
    return len(batch) * max(len(pair.teacher.ids) for pair in batch)
