"""TRL's SFTTrainer on our plan of passes: in one process, or in several with FSDP2.

TRL's loss never holds all logits: its fused head computes log-probs in tiles. The loss of an update is the sum
over the supervised tokens of all its tuples, in all passes of all processes, divided by their number.
"""

import os
from pathlib import Path
from typing import Any

import torch
from accelerate import FullyShardedDataParallelPlugin
from accelerate.utils import DistributedType
from datasets import Dataset
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from srt.common.models import load_model
from srt.contract.layout import TokenSequence
from srt.sft.batching import Plan
from srt.sft.callbacks import Checkpoints
from srt.sft.config import SftConfig

WEIGHTS, OPTIMIZER, SCHEDULE = "weights.safetensors", "optimizer.pt", "scheduler.pt"


class PassCollator:
    """Passes -> tensors. `rows` (train) or `rows` (validation) are looked up by the indexes that a pass holds.

    Packed: input_ids, labels, position_ids (1, T) and the borders of the sequences; padded: (B, T) with a mask.
    With `revision_starts`, loss_weights (as labels): 2 from there on, 1 before (see StageSettings).
    """

    def __init__(
        self, rows: list[TokenSequence], pad_id: int, packed: bool, revision_starts: list[int] | None = None
    ):
        self.rows, self.revision_starts = rows, revision_starts
        self.collate = DataCollatorForLanguageModeling(pad_token_id=pad_id, padding_free=packed)

    def __call__(self, passes: list[dict[str, list[int]]]) -> dict[str, Any]:
        indexes = passes[0]["tuples"]
        if not indexes:  # keeps the processes in step, and trains nothing
            ids = self.rows[0].ids[:2]
            return self._with_weights(self.collate([{"input_ids": ids, "labels": [-100] * len(ids)}]), [])
        rows = [self.rows[index] for index in indexes]
        batch = self.collate(
            [{"input_ids": row.ids, "labels": [-100] * row.start + row.ids[row.start :]} for row in rows]
        )
        return self._with_weights(batch, indexes)

    def _with_weights(self, batch: dict[str, Any], indexes: list[int]) -> dict[str, Any]:
        if self.revision_starts is not None:
            weights = torch.ones(batch["labels"].shape)
            begin = 0  # of the sequence within a packed row
            for number, index in enumerate(indexes):
                line = 0 if self.collate.padding_free else number
                end = begin + len(self.rows[index].ids)
                weights[line, begin + self.revision_starts[index] : end] = 2
                begin = end if self.collate.padding_free else 0
            batch["loss_weights"] = weights
        return batch


class PlannedTrainer(SFTTrainer):
    """`validation_tokens`: mean number of supervised tokens of a validation pass."""

    validation_tokens = 0.0

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        state = self.accelerator.state
        if state.distributed_type == DistributedType.MULTI_CPU:  # accelerate shards on accelerators alone
            state.distributed_type = DistributedType.FSDP
            state.fsdp_plugin = FullyShardedDataParallelPlugin()
            self.is_fsdp_enabled = True
        elif self.is_fsdp_enabled:
            # accelerate's own policy would add up gradients, and return log-probs, in bf16. Without an output type
            # log-probs stay fp32, and what passes between layers stays bf16: it is not cast a second time when
            # checkpointing runs a layer again.
            state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16, reduce_dtype=torch.float32
            )

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        weights = inputs.pop("loss_weights", None)
        if not self.model.training:
            # The Trainer takes the mean over passes; this makes it the mean over tokens.
            num_items_in_batch = self.validation_tokens * self.accelerator.num_processes

        def weighted(**kwargs):
            outputs = model(**kwargs)
            if weights is not None:
                outputs.log_probs = outputs.log_probs * weights[:, 1:]
            return outputs

        return super().compute_loss(weighted, inputs, return_outputs, num_items_in_batch)

    # Checkpoints: whole tensors under the parameters' names, written by the first process. The Trainer's own have
    # another form for each number of processes.

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        weights = trained_weights(self.model)
        if self.args.should_save:
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            save_file(weights, Path(output_dir) / WEIGHTS)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = get_optimizer_state_dict(self.model, self.optimizer.optimizer, options=options)
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """The weights were loaded before the model was given to the Trainer (see load_trained)."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        several = self.accelerator.num_processes > 1
        state = {}
        if self.args.process_index == 0:
            state = torch.load(Path(checkpoint) / OPTIMIZER, map_location="cpu", weights_only=True)
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=several)
        set_optimizer_state_dict(self.model, self.optimizer.optimizer, state, options=options)
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULE, weights_only=True))


def trained_weights(model: Any) -> dict[str, torch.Tensor]:
    """What is trained, by name, whole and on the CPU; all processes must join, the first one gets it."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    state = get_model_state_dict(model, options=options)
    # Not all of the state: tied tensors stand in it twice.
    return {name: state[name].contiguous() for name, _ in model.named_parameters() if name in state}


def load_trained(model: Any, weights: dict[str, torch.Tensor]) -> None:
    """Put trained_weights back. Raises ValueError for weights of another model."""
    missing, unexpected = model.load_state_dict(weights, strict=False)  # tied tensors stand in it once
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if unexpected or trained & set(missing):
        raise ValueError(f"the weights are of another model: {unexpected or trained & set(missing)}")


def new_model(model_path: str, config: SftConfig, attention: str) -> Any:
    """The model with fp32 weights, or with adapters when LORA_RANK is set."""
    # fp32 weights, bf16 computation: bf16 weights would lose updates at a learning rate of 5e-6.
    # What is sharded goes to its GPU shard by shard.
    model = load_model(model_path, "float32", "cpu" if "ACCELERATE_USE_FSDP" in os.environ else None)
    model.set_attn_implementation(attention)
    return with_adapters(model, config)


def with_adapters(model: Any, config: SftConfig) -> Any:
    if not config.lora_rank:
        return model
    from peft import LoraConfig, get_peft_model  # seconds, and seldom needed

    torch.manual_seed(config.seed)  # the adapters start at random
    settings = LoraConfig(
        r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return get_peft_model(model, settings)


def training_arguments(
    config: SftConfig, work: Path, plan: Plan, learning_rate: float, validates: bool
) -> SFTConfig:
    on_gpu = torch.cuda.is_available()
    arguments = SFTConfig(
        output_dir=str(work),
        num_train_epochs=1,  # the plan holds all epochs
        learning_rate=learning_rate,
        per_device_train_batch_size=1,  # passes
        per_device_eval_batch_size=1,
        gradient_accumulation_steps=plan.passes_per_update,
        train_sampling_strategy="sequential",
        average_tokens_across_devices=True,
        lr_scheduler_type=config.lr_schedule,
        warmup_steps=config.warmup_ratio,  # below 1, a share of all updates
        weight_decay=config.weight_decay,
        adam_beta1=config.adam_beta1,
        adam_beta2=config.adam_beta2,
        max_grad_norm=config.max_grad_norm,
        max_length=None,  # the rows are final: nothing is cut
        gradient_checkpointing=config.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if config.gradient_checkpointing else None,
        bf16=on_gpu,
        use_cpu=not on_gpu,
        seed=config.seed,
        eval_strategy="steps" if validates else "no",
        eval_steps=config.val_steps if validates else None,
        eval_on_start=validates,
        prediction_loss_only=True,
        save_steps=config.save_steps,
        save_total_limit=2,
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,  # it would show a NaN loss as 0
        report_to=config.report_to,
        disable_tqdm=True,
        dataloader_pin_memory=on_gpu,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    arguments._n_gpu = 1  # or the Trainer would split batches over all GPUs that one process sees
    return arguments


def make_trainer(
    model: Any,
    arguments: SFTConfig,
    collator: PassCollator,
    plan: Plan,
    validation: Plan | None,
    tokenizer: Any,
    callbacks: list[TrainerCallback],
) -> PlannedTrainer:
    """`validation`: a plan of one update, over the collator's rows as well."""
    trainer = PlannedTrainer(
        model=model,
        args=arguments,
        data_collator=collator,
        train_dataset=_dataset(plan),
        eval_dataset=_dataset(validation) if validation else None,
        processing_class=tokenizer,
        callbacks=[Checkpoints(), *callbacks],
    )
    if validation:
        rows = [collator.rows[index] for index in validation.updates[0]]
        supervised = sum(len(row.ids) - row.start for row in rows)
        trainer.validation_tokens = supervised / len(validation.passes)
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer


def _dataset(plan: Plan) -> Dataset:
    return Dataset.from_dict({"tuples": plan.passes})
