"""The student: all weights in training, or a low-rank adapter over frozen ones."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.utils import load_peft_weights
from torch import Tensor, nn

from opsd.config import RunConfig
from opsd.hidden_states import LMHead, check_supported, lm_head, predicting_hidden
from srt.common.dropout import turn_off_dropout
from srt.common.models import load_model
from srt.contract.layout import TokenSequence

ADAPTER = "default"  # PEFT's name for a model's first adapter


class Student:
    """`model`: a transformers model; `adapter`: what PEFT wraps around it with LORA_RANK, else None.

    Trained weights are fp32, under bf16 autocast on a GPU: bf16 weights would lose updates at a learning rate of
    5e-6. The frozen weights beneath an adapter are bf16 on a GPU, as a frozen teacher's are.
    """

    def __init__(self, config: RunConfig, checkpoint: Path | None):
        """`checkpoint`: a folder that `save` wrote, or None at the start of a run."""
        self.adapter: PeftModel | None = None
        if config.lora_rank:
            self.model = load_model(config.student_model, "auto")
            self.adapter = _open_adapter(self.model, config, checkpoint)
        else:
            self.model = load_model(str(checkpoint or config.student_model), "float32")
        check_supported(self.model, config.student_model)
        turn_off_dropout(self.model)
        if config.gradient_checkpointing:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.model.train()

    def hidden(self, sequences: list[TokenSequence], pad_id: int) -> Float[Tensor, "T H"]:
        """See hidden_states.predicting_hidden; differentiable."""
        return predicting_hidden(self.model, sequences, pad_id)

    def lm_head(self) -> LMHead:
        return lm_head(self.model)

    def trained_parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors as in a plain model's checkpoint: an adapter is added to the weights beneath it."""
        for name, weight in self.model.named_parameters():
            if self.adapter is None:
                yield name, weight
            elif ".lora_" not in name:
                plain = name.replace(".base_layer.", ".")
                if name.endswith(".base_layer.weight"):
                    layer = self.model.get_submodule(plain.removesuffix(".weight"))
                    weight = weight.detach() + layer.get_delta_weight(ADAPTER).detach()
                yield plain, weight

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
    adapter_config = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,  # pyright: ignore[reportArgumentType] - scaled by lora_alpha / r, any number
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    adapter = get_peft_model(model, adapter_config)  # pyright: ignore[reportArgumentType] - any transformers model
    assert isinstance(adapter, PeftModel)  # not a mixed one, which only mixed=True makes
    return adapter
