"""One update's pairs -> the micro-batches of every data-parallel rank.

The ranks of an FSDP model gather each other's weights in every layer, so all of them must make the same number of
passes, and the longest micro-batch of a round sets its time.
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
    """One optimizer step of one rank. `tokens`: supervised tokens of the whole update, the one denominator.

    An empty micro-batch is a pass in which the rank only keeps the others company.
    """

    micro_batches: list[list[PairIds]]
    tokens: int


def deal(pairs: list[SequencePair], ranks: int, tokens: int) -> list[list[list[SequencePair]]]:
    """Per rank its micro-batches of pairs, as many for each rank; every pair is in exactly one.

    tokens: teacher tokens, padding included, of one micro-batch. Micro-batch i of all ranks is one round; rounds
    are made of micro-batches of similar size.
    """
    batches = list(micro_batches(pairs, tokens))
    rounds = -(-len(batches) // ranks)
    while len(batches) < rounds * ranks:
        divisible = [batch for batch in batches if len(batch) > 1]
        if not divisible:
            break
        largest = max(divisible, key=_size)
        place, middle = batches.index(largest), len(largest) // 2
        batches[place : place + 1] = [largest[:middle], largest[middle:]]
    batches.sort(key=_size)
    batches = [[] for _ in range(rounds * ranks - len(batches))] + batches
    return [batches[rank::ranks] for rank in range(ranks)]


def _size(batch: list[SequencePair]) -> int:
    return len(batch) * max(len(pair.teacher.ids) for pair in batch)


def for_workers(dealt: list[list[list[SequencePair]]]) -> list[RankUpdate]:
    """What goes to the workers, per rank: ids only, no problems with their test cases."""
    tokens = sum(len(pair.targets) for rank in dealt for batch in rank for pair in batch)
    return [
        RankUpdate([[PairIds(pair.student, pair.teacher) for pair in batch] for batch in rank], tokens)
        for rank in dealt
    ]
