"""The student: all weights in training, or a low-rank adapter over frozen ones."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from peft import PeftModel, get_peft_model, set_peft_model_state_dict
from peft.utils import load_peft_weights
from torch import Tensor, nn

from opsd.checkpoint_names import as_in_checkpoint, saved_tensors
from opsd.config import RunConfig
from opsd.determinism import check_deterministic
from opsd.hidden_states import LMHead, check_supported, lm_head, predicting_hidden
from opsd.logits import check_logits, find_logit_transform
from opsd.packing import choose_packing, load_student
from srt.common.adapters import lora_config
from srt.common.dropout import turn_off_dropout
from srt.common.errors import UserError, reason_of
from srt.common.models import load_model
from srt.common.packing import attention_for_packing
from srt.contract.layout import TokenSequence

ADAPTER = "default"  # PEFT's name for a model's first adapter


class Student:
    """`model`: a transformers model; `adapter`: what PEFT wraps around it with LORA_RANK, else None.

    Trained weights are fp32, under bf16 autocast on a GPU: bf16 weights would lose updates at a learning rate of
    5e-6. The frozen weights beneath an adapter are bf16 on a GPU, as a frozen teacher's are.
    """

    def __init__(self, config: RunConfig, checkpoint: Path | None, longest: int = 0):
        """`checkpoint`: a folder that `save` wrote, or None at the start of a run. `longest`: the most tokens of a
        sequence, for PACKING; 0 pads. With `packed`, `hidden` has all sequences in one row, and needs
        `attention`."""
        packing = config.packing if longest else "0"
        self.adapter: PeftModel | None = None
        if config.lora_rank:
            self.packed = choose_packing([config.student_model], packing, longest)
            self.model = load_model(config.student_model, "auto")
            self.adapter = _open_adapter(self.model, config, checkpoint)
        else:
            path, others = str(checkpoint or config.student_model), {config.teacher_model} - {config.student_model}
            self.model, self.packed = load_student(path, others, packing, longest)
        check_supported(self.model, config.student_model)
        turn_off_dropout(self.model)
        if config.gradient_checkpointing:
            _enable_gradient_checkpointing(self.model, config.student_model)
        check_deterministic(self.model, config.student_model)
        self.logit_transform = find_logit_transform(self.model, config.student_model)
        check_logits(self.model, config.student_model, self.lm_head())

    def hidden(self, sequences: list[TokenSequence], pad_id: int) -> Float[Tensor, "T H"]:
        """See hidden_states.predicting_hidden; differentiable."""
        return predicting_hidden(self.model, sequences, pad_id, self.packed)

    def attention(self) -> contextlib.AbstractContextManager[None]:
        """The block of forward and backward passes. Outside of it, the model has its own attention, to sample."""
        return attention_for_packing(self.model) if self.packed else contextlib.nullcontext()

    def lm_head(self) -> LMHead:
        return lm_head(self.model, self.logit_transform)

    def trained_parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors as in a plain model's checkpoint: an adapter is added to the weights beneath it."""
        weights = saved_tensors(self.model) if self.adapter is None else self._merged_weights()
        return as_in_checkpoint(self.model, weights)

    @torch.no_grad()
    def _merged_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Names as in the model without its adapter."""
        for name, weight in saved_tensors(self.model):
            if ".lora_" in name:
                continue
            module, _, parameter = name.rpartition(".")
            # An adapted parameter of experts has a wrapper of its own: they are nested.
            while module.endswith(".base_layer"):
                module = module.removesuffix(".base_layer")
                layer: Any = self.model.get_submodule(module)
                if getattr(layer, "parameter_name", "weight") == parameter:
                    weight = weight + layer.get_delta_weight(ADAPTER).to(weight.dtype)
            yield f"{module}.{parameter}", weight

    def save(self, folder: Path) -> None:
        """What a run needs to continue: all weights, or the adapter."""
        if self.adapter is None:
            self.model.save_pretrained(folder)
        else:
            save_adapter(self.adapter, ADAPTER, folder)

    def load(self, folder: Path) -> None:
        """Put back the weights that `save` wrote."""
        if self.adapter is None:
            self.model.load_state_dict(load_model(str(folder), "float32", "cpu").state_dict())
        else:
            set_peft_model_state_dict(self.adapter, load_peft_weights(str(folder)), adapter_name=ADAPTER)

    def export(self, folder: Path, dtype: torch.dtype) -> None:
        """A plain Hugging Face folder. An adapter is merged, after which the student cannot be trained further."""
        model = self.model
        if self.adapter is not None:
            model = self.adapter.merge_and_unload(adapter_names=[ADAPTER])
        model.to(dtype).save_pretrained(folder)


def _enable_gradient_checkpointing(model: Any, name: str) -> None:
    try:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    except ValueError as error:
        raise UserError(
            f"GRADIENT_CHECKPOINTING=1: {name} does not support it ({reason_of(error)}); set "
            "GRADIENT_CHECKPOINTING=0"
        ) from error


def save_adapter(adapter: PeftModel, name: str, folder: Path) -> None:
    """One adapter of a model, in `folder` itself (PEFT puts all but the first one into a subfolder)."""
    adapter.save_pretrained(str(folder), selected_adapters=[name], save_embedding_layers=False)
    if name != ADAPTER:
        subfolder = folder / name
        for file in subfolder.iterdir():
            os.replace(file, folder / file.name)
        shutil.rmtree(subfolder)


def _open_adapter(model: nn.Module, config: RunConfig, checkpoint: Path | None) -> PeftModel:
    if checkpoint:
        return PeftModel.from_pretrained(model, str(checkpoint), is_trainable=True)
    torch.manual_seed(config.seed)  # an adapter starts at random
    adapter_config = lora_config(config.lora_rank, config.lora_alpha)
    try:
        adapter = get_peft_model(model, adapter_config)  # pyright: ignore[reportArgumentType] - any transformers model
    except ValueError as error:
        raise UserError(
            f"LORA_RANK={config.lora_rank}: PEFT cannot adapt the linear layers of {config.student_model} "
            f"({reason_of(error)}); LORA_RANK=0 trains all weights"
        ) from error
    assert isinstance(adapter, PeftModel)  # not a mixed one, which only mixed=True makes
    return adapter
