"""TRL's SFTTrainer, following a BatchPlan: in one process, or in several with FSDP2.

TRL's loss never materializes all logits: its fused head computes log-probs in tiles. The loss of an update is the
mean over the supervised tokens of all its tuples, across all passes and processes.
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
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import SchedulerType
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer
from trl.trainer.utils import add_fused_lm_head

from srt.common.dropout import turn_off_dropout
from srt.common.errors import UserError, reason_of
from srt.common.lr_schedule import lr_factor
from srt.common.models import load_model
from srt.contract.layout import TokenSequence
from srt.sft.batching import BatchPlan
from srt.sft.callbacks import CheckpointMarker
from srt.sft.config import SftConfig

WEIGHTS, OPTIMIZER, SCHEDULE = "weights.safetensors", "optimizer.pt", "scheduler.pt"


class PassCollator:
    """A pass, as indices into `sequences` (training and validation alike) -> tensors.

    Packed: input_ids, labels, position_ids (1, T) and the sequence boundaries; padded: (B, T) with a mask.
    With `revision_starts` also loss_weights, with the shape of labels: 2 from there on, 1 before (see plan.Stage).
    """

    def __init__(
        self,
        sequences: list[TokenSequence],
        pad_id: int,
        packed: bool,
        revision_starts: list[int] | None = None,
    ):
        self.sequences, self.revision_starts = sequences, revision_starts
        self.collate = DataCollatorForLanguageModeling(pad_token_id=pad_id, padding_free=packed)

    def __call__(self, passes: list[dict[str, list[int]]]) -> dict[str, Any]:
        indices = passes[0]["tuples"]
        if not indices:  # keeps the processes in step and trains on nothing
            ids = self.sequences[0].ids[:2]
            return self._with_weights(self.collate([{"input_ids": ids, "labels": [-100] * len(ids)}]), [])
        sequences = [self.sequences[index] for index in indices]
        batch = self.collate(
            [{"input_ids": s.ids, "labels": [-100] * s.start + s.ids[s.start :]} for s in sequences]
        )
        return self._with_weights(batch, indices)

    def _with_weights(self, batch: dict[str, Any], indices: list[int]) -> dict[str, Any]:
        if self.revision_starts is not None:
            weights = torch.ones(batch["labels"].shape)
            start = 0  # of the sequence within its row of the batch
            for number, index in enumerate(indices):
                row = 0 if self.collate.padding_free else number
                end = start + len(self.sequences[index].ids)
                weights[row, start + self.revision_starts[index] : end] = 2
                start = end if self.collate.padding_free else 0
            batch["loss_weights"] = weights
        return batch


class PackedSFTTrainer(SFTTrainer):
    """SFTTrainer on packed or padded passes, with exact token means and sharding-independent checkpoints.

    `supervised_tokens_per_validation_pass`: the mean, over all validation passes.
    """

    # Optional, or of several types, in the Trainer's annotations; here always what accelerate prepared.
    model: Any
    optimizer: Any
    lr_scheduler: Any

    def __init__(self, *args: Any, supervised_tokens_per_validation_pass: float = 0.0, **kwargs: Any):
        self.supervised_tokens_per_validation_pass = supervised_tokens_per_validation_pass
        super().__init__(*args, **kwargs)

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        state: Any = self.accelerator.state
        if state.distributed_type == DistributedType.MULTI_CPU:  # accelerate does not shard on CPUs by itself
            state.distributed_type = DistributedType.FSDP
            state.fsdp_plugin = FullyShardedDataParallelPlugin()
            self.is_fsdp_enabled = True
        elif self.is_fsdp_enabled:
            # accelerate's own policy would reduce gradients and return log-probs in bf16. Without an output dtype,
            # log-probs stay fp32 and activations between layers stay bf16, so that they are not cast again when
            # gradient checkpointing recomputes a layer.
            state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16, reduce_dtype=torch.float32
            )

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> LambdaLR:
        """Instead of transformers' schedules, whose first update has a learning rate of 0."""
        if self.lr_scheduler is None:
            warmup = self.args.get_warmup_steps(num_training_steps)
            factor = lr_factor(SchedulerType(self.args.lr_scheduler_type).value, warmup, num_training_steps)
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, factor)
        return self.lr_scheduler

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        weights = inputs.pop("loss_weights", None)
        if not self.model.training:
            # The Trainer averages over passes; this turns it into the mean over tokens.
            num_items_in_batch = self.supervised_tokens_per_validation_pass * self.accelerator.num_processes

        def weighted(**kwargs: Any) -> Any:
            outputs = model(**kwargs)
            if weights is not None:
                outputs.log_probs = outputs.log_probs * weights[:, 1:]
            return outputs

        wrapped: Any = weighted  # TRL only calls it
        return super().compute_loss(wrapped, inputs, return_outputs, num_items_in_batch)

    # Checkpoints hold full tensors under the parameter names, written by rank 0, and can be resumed with any
    # number of processes. The format of the Trainer's own depends on that number.

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        assert output_dir is not None, "the Trainer names the folder of each checkpoint"
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
        """Nothing to do: load_trained has loaded the weights before the Trainer was created."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        state = {}
        if self.args.process_index == 0:
            state = torch.load(Path(checkpoint) / OPTIMIZER, map_location="cpu", weights_only=True)
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=self.accelerator.num_processes > 1)
        set_optimizer_state_dict(self.model, self.optimizer.optimizer, state, options=options)
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULE, weights_only=True))


def trained_weights(model: Any) -> dict[str, torch.Tensor]:
    """The trainable parameters as full tensors on the CPU, by name. A collective call; only rank 0 gets them."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    state: dict[str, Any] = get_model_state_dict(model, options=options)
    # named_parameters() names tied tensors once, the state dict twice.
    return {name: state[name].contiguous() for name, _ in model.named_parameters() if name in state}


def load_trained(model: Any, weights: dict[str, torch.Tensor]) -> None:
    """Load the result of trained_weights. Raises ValueError for weights of another model."""
    missing, unexpected = model.load_state_dict(weights, strict=False)  # tied tensors are stored once
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if unexpected or trained & set(missing):
        raise ValueError(f"the weights belong to another model: {unexpected or trained & set(missing)}")


def new_model(model_path: str, config: SftConfig, attn_implementation: str) -> Any:
    """The model with fp32 weights, without dropout, and with LoRA adapters when LORA_RANK is set."""
    # fp32 weights, bf16 computation: bf16 weights would round away updates at a learning rate of 5e-6.
    # A sharded model stays on the CPU here and moves to the GPUs shard by shard.
    model = load_model(model_path, "float32", "cpu" if "ACCELERATE_USE_FSDP" in os.environ else None)
    model.set_attn_implementation(attn_implementation)
    turn_off_dropout(model, in_config=True)  # stages.py exports another copy
    return with_adapters(model, config)


def with_adapters(model: Any, config: SftConfig) -> Any:
    """The model with LoRA adapters when LORA_RANK is set. Raises UserError when PEFT refuses it."""
    if not config.lora_rank:
        return model
    from peft import LoraConfig, get_peft_model  # takes seconds to import

    torch.manual_seed(config.seed)  # for the random initialization of the adapters
    lora_config = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,  # pyright: ignore[reportArgumentType] - scaled by lora_alpha / r, any number
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, lora_config)
    except ValueError as error:  # of Mamba layers, for example
        raise UserError(
            f"LORA_RANK={config.lora_rank}: PEFT has no adapters for all linear layers of {type(model).__name__} "
            f"({reason_of(error)}); set LORA_RANK=0"
        ) from error


@torch.no_grad()
def check_loss(model: Any, packed: bool) -> None:
    """Raises UserError when the log-probs of TRL's fused LM head are not those of the model's own logits.

    `model`: with the attention that it trains with, for packed passes or others; it gets the fused head. That
    multiplies the last hidden states by the LM head; it knows most scalings and caps of the logits by the names of
    their config entries, and no layers in between.
    """
    add_fused_lm_head(model)
    name = type(model).__name__
    vocab_size, generator = model.config.get_text_config().vocab_size, torch.Generator().manual_seed(0)
    ids = torch.randint(vocab_size, (16,), generator=generator).tolist()
    batch = PassCollator([TokenSequence(ids, start=1)], 0, packed)([{"tuples": [0]}])
    batch = {key: x.to(model.device) if torch.is_tensor(x) else x for key, x in batch.items()}
    labels = batch.pop("labels")
    logits = model(**batch, use_cache=False).logits[:, :-1]
    expected = logits.log_softmax(-1).gather(-1, labels[:, 1:, None])
    try:
        actual = model(**batch, labels=labels, use_cache=False, fused_lm_head=True).log_probs
    except AttributeError as error:  # its last hidden states or its head are not where transformers has them
        raise UserError(f"{name} cannot be trained: {reason_of(error)}") from error
    difference = float((actual - expected[..., 0]).abs().max())
    if not difference < 1e-3 * float(expected.abs().max()):
        raise UserError(
            f"{name} cannot be trained: its log-probs differ by up to {difference:.2g} from those of its last "
            "hidden states times its LM head, from which the loss is computed"
        )


def training_arguments(
    config: SftConfig, work_dir: Path, plan: BatchPlan, learning_rate: float, validate: bool
) -> SFTConfig:
    on_gpu = torch.cuda.is_available()
    arguments = SFTConfig(
        output_dir=str(work_dir),
        num_train_epochs=1,  # the plan covers all epochs
        learning_rate=learning_rate,
        per_device_train_batch_size=1,  # one pass
        per_device_eval_batch_size=1,
        gradient_accumulation_steps=plan.passes_per_update,
        train_sampling_strategy="sequential",
        average_tokens_across_devices=True,
        lr_scheduler_type=config.lr_schedule,
        warmup_steps=config.warmup_ratio,  # below 1: a fraction of all updates
        weight_decay=config.weight_decay,
        adam_beta1=config.adam_beta1,
        adam_beta2=config.adam_beta2,
        max_grad_norm=config.max_grad_norm,
        max_length=None,  # no truncation: the sequences are final
        gradient_checkpointing=config.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if config.gradient_checkpointing else None,
        bf16=on_gpu,
        use_cpu=not on_gpu,
        seed=config.seed,
        eval_strategy="steps" if validate else "no",
        eval_steps=config.val_steps if validate else None,
        eval_on_start=validate,
        prediction_loss_only=True,
        save_steps=config.save_steps,
        save_total_limit=2,
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,  # it would log a NaN loss as 0
        report_to=config.report_to,
        disable_tqdm=True,
        dataloader_pin_memory=on_gpu,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        # Mixtures of experts: without their load-balancing loss, which is not in the paper, and which would depend
        # on the tuples that share a pass.
        router_aux_loss_coef=0.0,
    )
    arguments._n_gpu = 1  # or the Trainer would split batches over all visible GPUs (DataParallel)
    return arguments


def make_trainer(
    model: Any,
    arguments: SFTConfig,
    collator: PassCollator,
    plan: BatchPlan,
    validation: BatchPlan | None,
    tokenizer: Any,
    callbacks: list[TrainerCallback],
) -> PackedSFTTrainer:
    """`validation`: a plan with a single "update"; both plans index the collator's sequences."""
    tokens_per_pass = 0.0
    if validation:
        held_out = [collator.sequences[index] for index in validation.updates[0]]
        tokens_per_pass = sum(len(s.ids) - s.start for s in held_out) / len(validation.passes)
    trainer = PackedSFTTrainer(
        model=model,
        args=arguments,
        data_collator=collator,
        train_dataset=_dataset(plan),
        eval_dataset=_dataset(validation) if validation else None,
        processing_class=tokenizer,
        callbacks=[CheckpointMarker(), *callbacks],
        supervised_tokens_per_validation_pass=tokens_per_pass,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer


def _dataset(plan: BatchPlan) -> Dataset:
    return Dataset.from_dict({"tuples": plan.passes})
