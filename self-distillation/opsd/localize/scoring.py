"""Graded responses -> scored responses: both models' rows through the functions of training, batch by batch."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from opsd.kl import KLConfig, KLOutput
from opsd.localize.details import TokenDetails, token_details
from opsd.localize.models import ReadModel
from opsd.localize.records import ScoredResponse, VariantScores
from opsd.localize.responses import GradedResponse
from opsd.localize.token_text import token_texts
from opsd.localize.variants import Variants
from opsd.pair_kl import detach_to_cpu, pair_kl
from opsd.pairs import SequencePair, batches_by_length
from srt.common.errors import UserError
from srt.contract.layout import Layout

PAPER_KL = KLConfig()  # reverse, exact, temperature 1


@dataclass(frozen=True)
class Item:
    """A response with its sequences: those of training, and by name those of the other variants."""

    graded: GradedResponse
    pair: SequencePair
    others: dict[str, SequencePair]

    @property
    def longest(self) -> int:
        """Tokens of the longest teacher sequence."""
        return max(len(pair.teacher.ids) for pair in (self.pair, *self.others.values()))


@dataclass(frozen=True)
class PairScorer:
    """`alternatives`: the most likely tokens to keep of each model. `compare`: False: only training's cue."""

    student: ReadModel
    teacher: ReadModel
    layout: Layout
    pad_id: int
    max_teacher_tokens: int
    tokens_per_micro_batch: int
    alternatives: int
    compare: bool
    variants: Variants
    teacher_vocab: int

    def items(self, responses: list[GradedResponse]) -> list[Item]:
        """Those with a token to score: not the ones with a token that the teacher does not have, as in training,
        nor where MAX_TEACHER_TOKENS leaves no room for y."""
        built = [
            Item(graded, *self.variants.sequences(graded.rollout, self.max_teacher_tokens, self.compare))
            for graded in responses
        ]
        return [item for item in built if item.pair.targets and max(item.pair.teacher.ids) < self.teacher_vocab]

    def score(self, items: list[Item]) -> Iterator[list[ScoredResponse]]:
        """Batch after batch, with at most `tokens_per_micro_batch` tokens in work at once."""
        packed = self.student.packed
        for batch in batches_by_length(items, lambda item: item.longest, self.tokens_per_micro_batch, packed):
            yield self._score_batch(batch)

    @torch.no_grad()
    def _score_batch(self, batch: list[Item]) -> list[ScoredResponse]:
        students = [item.pair.student for item in batch]
        hidden, head = self.student.hidden(students, self.pad_id), self.student.lm_head()
        teacher_head = self.teacher.lm_head()
        teacher_hidden = self.teacher.hidden([item.pair.teacher for item in batch], self.pad_id)
        output = self._kl(hidden, self.student, teacher_hidden, batch)
        targets = torch.tensor([token for item in batch for token in item.pair.targets], device=hidden.device)
        details = token_details(hidden, head, teacher_hidden, teacher_head, targets, self.alternatives)
        variants = self._variants(batch, hidden, teacher_hidden)
        scored, start = [], 0
        for item in batch:
            tokens = slice(start, start + len(item.pair.targets))
            scored.append(self._record(item, output, details[tokens], tokens, variants))
            start = tokens.stop
        return scored

    def _variants(
        self, batch: list[Item], hidden: Float[Tensor, "T Hs"], teacher_hidden: Float[Tensor, "T Ht"]
    ) -> dict[int, dict[str, VariantScores]]:
        """By id of the item. A variant is scored for the items that have it, such as P_0 for right responses."""
        scores: dict[int, dict[str, VariantScores]] = {id(item): {} for item in batch}
        for name in self.variants.cues:
            having = [item for item in batch if name in item.others]
            if not having:
                continue
            tokens = _tokens_of(batch, having).to(hidden.device)
            other = self.teacher.hidden([item.others[name].teacher for item in having], self.pad_id)
            output = self._kl(hidden[tokens], self.student, other, having)
            moved = self._kl(teacher_hidden[tokens], self.teacher, other, having).token_kl.tolist()
            kl, logprob = output.token_kl.tolist(), _values(output.teacher_logprob)
            start = 0
            for item in having:
                part = slice(start, start + len(item.pair.targets))
                scores[id(item)][name] = VariantScores(kl[part], logprob[part], moved[part])
                start = part.stop
        return scores

    def _kl(
        self, hidden: Float[Tensor, "T H"], model: ReadModel, other: Float[Tensor, "T Ht"], batch: list[Item]
    ) -> KLOutput:
        """KL of `model` from the teacher with the hidden states `other`, by the function of training."""
        sequences = [item.pair.student for item in batch]
        head = self.teacher.lm_head()
        output = pair_kl(hidden, model.lm_head(), other, head, sequences, 1.0, PAPER_KL, grad_eps=0.0)
        if not bool(torch.isfinite(output.token_kl).all()):
            raise UserError(
                f"the KL of {model.path} from {self.teacher.path} is not finite: one of them has broken weights, "
                "or overflows in its precision"
            )
        return detach_to_cpu(output)

    def _record(
        self,
        item: Item,
        output: KLOutput,
        details: list[TokenDetails],
        tokens: slice,
        variants: dict[int, dict[str, VariantScores]],
    ) -> ScoredResponse:
        rollout, targets = item.pair.rollout, item.pair.targets
        return ScoredResponse(
            problem=item.graded.problem,
            response=item.graded.response,
            id=rollout.problem.id,
            x=rollout.problem.x,
            answer=rollout.problem.answer,
            r=rollout.r,
            finish_reason=rollout.finish_reason,
            p_r=self.layout.phrases.text(rollout.r),
            ids=targets,
            tokens=token_texts(self.layout.tokenizer, targets),
            kl=output.token_kl[tokens].tolist(),
            student_entropy=_values(output.student_entropy)[tokens],
            teacher_entropy=_values(output.teacher_entropy)[tokens],
            student_logprob=_values(output.student_logprob)[tokens],
            teacher_logprob=_values(output.teacher_logprob)[tokens],
            student_rank=[token.student_rank for token in details],
            teacher_rank=[token.teacher_rank for token in details],
            alternatives=[token.alternatives for token in details],
            variants=variants[id(item)],
        )


def _values(tensor: Tensor | None) -> list[float]:
    assert tensor is not None  # statistics are on by default, and targets are always given
    return tensor.tolist()


def _tokens_of(batch: list[Item], chosen: list[Item]) -> Tensor:
    """Positions, among the tokens of the batch, of those of the chosen items."""
    kept = {id(item) for item in chosen}
    flags = [id(item) in kept for item in batch for _ in item.pair.targets]
    return torch.tensor(flags).nonzero()[:, 0]
