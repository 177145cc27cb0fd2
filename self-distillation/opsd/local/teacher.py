"""The teacher: a frozen copy of the SRT model, or the student's weights without its adapter."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn

from opsd.config import RunConfig
from opsd.cpu_offload import OffGpu
from opsd.determinism import policy_mode
from opsd.hidden_states import LMHead, check_supported, lm_head, predicting_hidden
from opsd.local.student import ADAPTER, Student, save_adapter
from opsd.logits import check_logits, find_logit_transform
from srt.common.errors import UserError
from srt.common.models import load_model
from srt.common.packed_attention import PACKED
from srt.common.packing import set_attention
from srt.contract.layout import TokenSequence

TEACHER_ADAPTER = "teacher"


class Teacher(Protocol):
    """`was_synced`: no longer the teacher that the run started with, so checkpoints must hold it."""

    was_synced: bool

    def present(self) -> contextlib.AbstractContextManager[None]:
        """The block in which the teacher may be used; elsewhere its weights may be off the GPU."""
        ...

    def hidden(self, sequences: list[TokenSequence], pad_id: int) -> Float[Tensor, "T H"]:
        """See hidden_states.predicting_hidden; without gradients."""
        ...

    def lm_head(self) -> LMHead: ...

    def copy_from(self, student: Student) -> None:
        """Become the student as it is now."""

    def save(self, folder: Path) -> None: ...


def open_teacher(config: RunConfig, student: Student, checkpoint: Path | None, offload: bool = False) -> Teacher:
    """`checkpoint`: a folder with a synced teacher, or None for the one that the run starts with.

    `offload`: keep a teacher of its own in host memory while it is not used.

    Raises UserError for a teacher that does not support what the configuration requires.
    """
    if student.adapter is not None:
        return BaseWeightsTeacher(student, student.adapter, checkpoint)
    return FrozenTeacher(config, student, checkpoint, offload)


class FrozenTeacher:
    """A separate model, in bf16 on a GPU."""

    def __init__(self, config: RunConfig, student: Student, checkpoint: Path | None, offload: bool = False):
        self.model = load_model(str(checkpoint or config.teacher_model), "auto").eval().requires_grad_(False)
        self.was_synced = checkpoint is not None
        check_supported(self.model, config.teacher_model)
        keep_residual_in_fp32(self.model)
        self.logit_transform = find_logit_transform(self.model, config.teacher_model)
        check_logits(self.model, config.teacher_model, self.lm_head())
        student_shapes, shapes = (
            {name: tensor.shape for name, tensor in model.state_dict().items()}
            for model in (student.model, self.model)
        )
        if config.teacher_sync != "none" and student_shapes != shapes:
            raise UserError(
                f"TEACHER_SYNC={config.teacher_sync} copies the student's weights into the teacher, but "
                f"TEACHER_MODEL={config.teacher_model} has another architecture than {config.student_model}"
            )
        self.packed = student.packed
        if self.packed:
            set_attention(self.model, PACKED)
        self._weights = OffGpu(lambda: dict(self.model.named_parameters()), offload)

    def present(self) -> contextlib.AbstractContextManager[None]:
        return self._weights.present()

    @torch.no_grad()
    def hidden(self, sequences: list[TokenSequence], pad_id: int) -> Float[Tensor, "T H"]:
        return predicting_hidden(self.model, sequences, pad_id, self.packed)

    def lm_head(self) -> LMHead:
        return lm_head(self.model, self.logit_transform)

    def copy_from(self, student: Student) -> None:
        self.model.load_state_dict(student.model.state_dict())  # casts to the teacher's dtype
        self.was_synced = True

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)


def keep_residual_in_fp32(model: nn.Module) -> None:
    """Compute as the student does under autocast, whose fp32 embeddings give it a residual stream in fp32.

    With a residual stream in bf16, equal weights had a KL of 0.0087 nats per token on 36 random layers.
    """

    def to_fp32(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output.float()

    model.get_input_embeddings().register_forward_hook(to_fp32)  # pyright: ignore[reportCallIssue] - a module


class BaseWeightsTeacher:
    """The weights beneath the student's adapter; once synced, with a second, frozen adapter on them."""

    def __init__(self, student: Student, adapter: PeftModel, checkpoint: Path | None):
        self.model, self.packed = student.model, student.packed
        self.logit_transform = student.logit_transform
        self.adapter = adapter
        self.was_synced = checkpoint is not None
        if checkpoint:
            self.adapter.load_adapter(str(checkpoint), TEACHER_ADAPTER)

    def present(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()  # its weights are the student's

    @torch.no_grad()
    def hidden(self, sequences: list[TokenSequence], pad_id: int) -> Float[Tensor, "T H"]:
        with self._instead_of_student():
            return predicting_hidden(self.model, sequences, pad_id, self.packed)

    def lm_head(self) -> LMHead:
        return lm_head(self.model, self.logit_transform)  # adapters leave it alone

    def copy_from(self, student: Student) -> None:
        if not self.was_synced:
            self.adapter.add_adapter(TEACHER_ADAPTER, self.adapter.peft_config[ADAPTER])
            self.was_synced = True
        state = get_peft_model_state_dict(self.adapter, adapter_name=ADAPTER, save_embedding_layers=False)
        set_peft_model_state_dict(self.adapter, state, adapter_name=TEACHER_ADAPTER)
        self.adapter.set_adapter(ADAPTER)  # freezes the other one

    def save(self, folder: Path) -> None:
        save_adapter(self.adapter, TEACHER_ADAPTER, folder)

    @contextlib.contextmanager
    def _instead_of_student(self) -> Iterator[None]:
        self.model.eval()
        if self.was_synced:
            self.adapter.set_adapter(TEACHER_ADAPTER, inference_mode=True)
            yield
            self.adapter.set_adapter(ADAPTER)
        else:
            with self.adapter.disable_adapter():
                yield
        policy_mode(self.model)
