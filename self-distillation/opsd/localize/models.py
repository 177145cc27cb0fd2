"""A checkpoint that is only read, in the precision that Phase 2 gives the student or the teacher."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from opsd.hidden_states import LMHead, check_supported, lm_head, predicting_hidden
from opsd.local.teacher import keep_residual_in_fp32
from opsd.logits import check_logits, find_logit_transform
from opsd.packing import load_student
from srt.common.models import load_model
from srt.common.packed_attention import PACKED
from srt.common.packing import set_attention
from srt.contract.layout import TokenSequence


class ReadModel:
    """`model`: that of `path`, as load_model returns it. `packed`: `hidden` has all sequences in one row.

    Raises UserError for a model that Phase 2 does not support.
    """

    def __init__(self, path: str, model: Any, packed: bool):
        self.path, self.packed = path, packed
        self.model = model.eval().requires_grad_(False)
        check_supported(self.model, path)
        self.logit_transform = find_logit_transform(self.model, path)
        check_logits(self.model, path, self.lm_head())
        if packed:
            set_attention(self.model, PACKED)

    @torch.no_grad()
    def hidden(self, sequences: list[TokenSequence], pad_id: int) -> Float[Tensor, "T H"]:
        """See hidden_states.predicting_hidden."""
        return predicting_hidden(self.model, sequences, pad_id, self.packed)

    def lm_head(self) -> LMHead:
        return lm_head(self.model, self.logit_transform)


def open_models(student: str, teacher: str, packing: str, longest: int) -> tuple[ReadModel, ReadModel]:
    """The student: fp32, under bf16 autocast on a GPU; the teacher: on a GPU bf16 with an fp32 residual stream.

    On a CPU, where both roles compute alike, the same checkpoint is loaded once. `longest`: the most tokens of a
    sequence, for PACKING.
    """
    model, packed = load_student(student, {teacher} - {student}, packing, longest)
    first = ReadModel(student, model, packed)
    if student == teacher and first.model.device.type == "cpu":
        return first, first
    model = load_model(teacher, "auto")
    keep_residual_in_fp32(model)
    return first, ReadModel(teacher, model, packed)
