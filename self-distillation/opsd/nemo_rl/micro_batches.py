"""One update's pairs -> the micro-batches of every data-parallel rank.

The ranks of an FSDP model gather each other's weights in every layer, so all of them must make the same number of
passes, and the micro-batch with the most work determines the duration of a round.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from opsd.pairs import SequencePair, micro_batches
from srt.common.balance import fewest_parts
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


def assign_micro_batches(
    pairs: list[SequencePair], ranks: int, tokens: int, width: int, packed: bool = False
) -> list[list[list[SequencePair]]]:
    """Each rank's micro-batches, equally many for every rank; every pair is in exactly one.

    tokens: teacher tokens of one micro-batch, padding included. width: of the model's hidden states. Micro-batch i
    of all ranks is one round; rounds consist of micro-batches of similar work. An empty one has no pairs.
    """
    work = partial(micro_batch_work, width=width, packed=packed)
    if packed:
        lengths, cost = [len(pair.teacher.ids) for pair in pairs], [work([pair]) for pair in pairs]
        parts = fewest_parts(range(len(pairs)), lengths, tokens, ranks, cost)
        batches = [[pairs[index] for index in part] for part in parts]
    else:
        batches = _padded(pairs, ranks, tokens, work)
    batches.sort(key=work)
    return [batches[rank::ranks] for rank in range(ranks)]


def micro_batch_work(batch: list[SequencePair], width: int, packed: bool) -> float:
    """The time of a micro-batch's passes, in units of one token's matrix products.

    A token takes 12 width^2 multiplications in each layer of a usual transformer, and causal attention over the
    length of its sequence another width * length. The student's backward pass takes two forward passes.
    """
    work = 0.0
    for sequences, passes in (([p.teacher for p in batch], 1), ([p.student for p in batch], 3)):
        lengths = [len(sequence.ids) for sequence in sequences]
        computed = lengths if packed else [max(lengths, default=0)] * len(lengths)
        work += passes * sum(length * (1 + length / (12 * width)) for length in computed)
    return work


def _padded(
    pairs: list[SequencePair], ranks: int, tokens: int, work: Callable[[list[SequencePair]], float]
) -> list[list[SequencePair]]:
    """Micro-batches of pairs of similar length, as many as `ranks` divides."""
    batches = micro_batches(pairs, tokens)
    rounds = -(-len(batches) // ranks)
    while len(batches) < rounds * ranks:
        divisible = [batch for batch in batches if len(batch) > 1]
        if not divisible:
            break
        largest = max(divisible, key=work)
        index, middle = batches.index(largest), len(largest) // 2
        batches[index : index + 1] = [largest[:middle], largest[middle:]]
    return [[] for _ in range(rounds * ranks - len(batches))] + batches


def rank_updates(assigned: list[list[list[SequencePair]]]) -> list[RankUpdate]:
    """What is sent to each rank: ids only, without the problems and their test cases."""
    tokens = sum(len(pair.targets) for rank in assigned for batch in rank for pair in batch)
    return [
        RankUpdate([[PairIds(pair.student, pair.teacher) for pair in batch] for batch in rank], tokens)
        for rank in assigned
    ]
