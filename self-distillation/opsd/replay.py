"""SRT_REPLAY: revision tuples of Phase 1 among the responses of each update, so that the student goes on revising.

Rehearsal of earlier data beside new data is the classical remedy against forgetting (Robins 1995; for language
models, arXiv:2205.12393). The loss on the tuples is that of SFT's stage 2.
"""

from dataclasses import dataclass
from pathlib import Path

from opsd.config import RunConfig
from opsd.problem_order import ProblemOrder
from srt.common.errors import UserError
from srt.contract.layout import Layout, TokenSequence
from srt.contract.provenance import tokenizer_fingerprint
from srt.sft.collection import read_collection_identity
from srt.sft.dataset import build_sequences, load_stage

REVISION_STAGE = 2


@dataclass(frozen=True)
class Replay:
    """`sequences`: of all tuples, their y_revised supervised; `per_update` of them enter each update."""

    sequences: list[TokenSequence]
    per_update: int
    seed: int

    def of_update(self, update: int) -> list[TokenSequence]:
        """In shuffled passes; a function of seed and update alone, so a resumed run takes the same ones."""
        order = ProblemOrder(len(self.sequences), self.per_update, self.seed)
        return [self.sequences[index] for index in order.step(update)]


def load_replay(config: RunConfig, layout: Layout) -> Replay | None:
    """The tuples of SRT_REPLAY_DATA; None without SRT_REPLAY. Raises UserError for data that cannot be used."""
    if not config.srt_replay:
        return None
    if not config.srt_replay_data:
        raise UserError(
            f"SRT_REPLAY={config.srt_replay} needs SRT_REPLAY_DATA, the file that stage 2 of SFT was trained on "
            "(train_data/<prefix>_stage2.json)"
        )
    path = Path(config.srt_replay_data)
    collection = read_collection_identity(path)
    same_tokenizer = collection.get("tokenizer_fingerprint") == tokenizer_fingerprint(layout.tokenizer)
    built = build_sequences(load_stage(path), layout, REVISION_STAGE, config.max_teacher_tokens, same_tokenizer)
    if not built.sequences:
        raise UserError(f"{path}: all tuples are longer than MAX_TEACHER_TOKENS={config.max_teacher_tokens}")
    responses = config.train_global_batch_size
    per_update = max(1, round(responses * config.srt_replay / (1 - config.srt_replay)))
    print(
        f"replay: {per_update} of {len(built.sequences)} revision tuples beside the {responses} responses of an "
        f"update ({len(built.too_long)} are longer than MAX_TEACHER_TOKENS)"
    )
    return Replay(built.sequences, per_update, config.seed)
