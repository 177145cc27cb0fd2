"""The student: all weights in training, or a low-rank adapter over frozen ones."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from opsd.config import DistillConfig
from opsd.hidden_states import check_causal, check_head
from srt.common.models import load_model

ADAPTER = "default"  # PEFT's name for a model's first adapter


class Student:
    """`model`: a transformers model; `adapter`: what PEFT wraps around it with LORA_RANK, else None.

    Trained weights are fp32, under bf16 autocast on a GPU: bf16 weights would lose updates at a learning rate of
    5e-6. Beneath an adapter, the frozen weights are bf16 on a GPU, just as a frozen teacher's are.
    """

    def __init__(self, config: DistillConfig, checkpoint: Path | None):
        """`checkpoint`: a folder that `save` wrote, or None for the run's start."""
        self.adapter: PeftModel | None = None
        if not config.lora_rank:
            self.model = load_model(str(checkpoint or config.student_model), "float32")
        else:
            self.model = load_model(config.student_model, "auto")
            torch.manual_seed(config.seed)  # an adapter starts at random
            adapter_config = LoraConfig(
                r=config.lora_rank,
                lora_alpha=config.lora_alpha,
                target_modules="all-linear",
                task_type="CAUSAL_LM",
            )
            self.adapter = (
                PeftModel.from_pretrained(self.model, checkpoint, is_trainable=True)
                if checkpoint
                else get_peft_model(self.model, adapter_config)
            )
        check_causal(self.model, config.student_model)
        check_head(self.model, config.student_model)
        if config.gradient_checkpointing:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.model.train()

    def trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors as an ordinary model's checkpoint has them: an adapter is added to its weights."""
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
        """What a run needs to go on: all weights, or the adapter."""
        if self.adapter is None:
            self.model.save_pretrained(folder)
        else:
            save_adapter(self.adapter, ADAPTER, folder)

    def write_model(self, folder: Path, dtype: torch.dtype) -> None:
        """An ordinary Hugging Face folder. An adapter is merged, after which the student can train no more."""
        model = self.model if self.adapter is None else self.adapter.merge_and_unload(adapter_names=[ADAPTER])
        model.to(dtype).save_pretrained(folder)


def save_adapter(adapter: PeftModel, name: str, folder: Path) -> None:
    """One adapter of a model, in `folder` itself (PEFT puts all but the first one into a folder of their own)."""
    adapter.save_pretrained(folder, selected_adapters=[name], save_embedding_layers=False)
    if name != ADAPTER:
        own = folder / name
        for file in own.iterdir():
            os.replace(file, folder / file.name)
        shutil.rmtree(own)
