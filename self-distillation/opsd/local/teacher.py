"""The teacher: a frozen copy of the SRT model, or the student's own weights without its adapter."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor

from opsd.config import DistillConfig
from opsd.hidden_states import check_causal, check_head, head, predicting_hidden
from opsd.local.student import ADAPTER, Student, save_adapter
from srt.common.errors import UserError
from srt.common.models import load_model
from srt.contract.layout import TokenSequence

TEACHER_ADAPTER = "teacher"


def open_teacher(
    config: DistillConfig, student: Student, checkpoint: Path | None
) -> "FrozenTeacher | BaseWeightsTeacher":
    """`checkpoint`: a folder with the teacher that a synchronisation made, or None for the one of the start.

    Raises UserError for a teacher that cannot do what the knobs ask of it.
    """
    if config.lora_rank:
        return BaseWeightsTeacher(student, checkpoint)
    return FrozenTeacher(config, student, checkpoint)


class FrozenTeacher:
    """A model of its own, in bf16 on a GPU."""

    def __init__(self, config: DistillConfig, student: Student, checkpoint: Path | None):
        self.model = load_model(str(checkpoint or config.teacher_model), "auto").eval().requires_grad_(False)
        check_causal(self.model, config.teacher_model)
        check_head(self.model, config.teacher_model)
        self.was_synced = checkpoint is not None
        shapes, own = ({k: v.shape for k, v in m.state_dict().items()} for m in (student.model, self.model))
        if (config.teacher_sync_steps or config.teacher_sync_epochs) and shapes != own:
            raise UserError(
                f"TEACHER_SYNC_STEPS and TEACHER_SYNC_EPOCHS copy the student's weights into the teacher, but "
                f"TEACHER_MODEL={config.teacher_model} has another architecture than {config.student_model}"
            )

    @torch.no_grad()
    def hidden(self, rows: list[TokenSequence], pad_id: int) -> Float[Tensor, "T H"]:
        return predicting_hidden(self.model, rows, pad_id)

    def head(self) -> tuple[Tensor, Tensor | None]:
        return head(self.model)

    def become(self, student: Student) -> None:
        self.model.load_state_dict(student.model.state_dict())  # casts to the teacher's dtype
        self.was_synced = True

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)


class BaseWeightsTeacher:
    """The weights beneath the student's adapter; once synchronised, with a second, frozen adapter on them."""

    def __init__(self, student: Student, checkpoint: Path | None):
        self.model = student.model
        self.adapter = student.adapter
        self.was_synced = checkpoint is not None
        if checkpoint:
            self.adapter.load_adapter(checkpoint, TEACHER_ADAPTER)

    @torch.no_grad()
    def hidden(self, rows: list[TokenSequence], pad_id: int) -> Float[Tensor, "T H"]:
        with self._in_place_of_student():
            return predicting_hidden(self.model, rows, pad_id)

    def head(self) -> tuple[Tensor, Tensor | None]:
        return head(self.model)  # no adapter stands on it

    def become(self, student: Student) -> None:
        if not self.was_synced:
            self.adapter.add_adapter(TEACHER_ADAPTER, self.adapter.peft_config[ADAPTER])
            self.was_synced = True
        state = get_peft_model_state_dict(self.adapter, adapter_name=ADAPTER, save_embedding_layers=False)
        set_peft_model_state_dict(self.adapter, state, adapter_name=TEACHER_ADAPTER)
        self.adapter.set_adapter(ADAPTER)  # freezes the other one

    def save(self, folder: Path) -> None:
        save_adapter(self.adapter, TEACHER_ADAPTER, folder)

    @contextlib.contextmanager
    def _in_place_of_student(self) -> Iterator[None]:
        self.model.eval()
        if self.was_synced:
            self.adapter.set_adapter(TEACHER_ADAPTER, inference_mode=True)
            yield
            self.adapter.set_adapter(ADAPTER)
        else:
            with self.adapter.disable_adapter():
                yield
        self.model.train()


Teacher = FrozenTeacher | BaseWeightsTeacher
