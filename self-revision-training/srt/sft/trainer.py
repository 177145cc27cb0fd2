"""TRL's SFTTrainer, following a BatchPlan: in one process, or in several with FSDP2.

TRL's loss never materializes all logits: its fused head computes log-probs in tiles. The loss of an update is the
mean over the supervised tokens of all its tuples, across all passes and processes.
"""

import math
from pathlib import Path
from typing import Any

import torch
from accelerate import FullyShardedDataParallelPlugin
from accelerate.utils import DistributedType
from datasets import Dataset
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
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

from srt.common.errors import UserError, reason_of
from srt.common.lr_schedule import lr_factor
from srt.common.optimizer import OptimizerConfig
from srt.common.resume import load_state
from srt.contract.layout import TokenSequence
from srt.sft.batching import BatchPlan
from srt.sft.callbacks import CheckpointMarker
from srt.sft.config import SftConfig
from srt.sft.weights import WEIGHTS, SendWeights, trained_weights

OPTIMIZER, SCHEDULE = "optimizer.pt", "scheduler.pt"
SKIPPED = "skipped"  # in a batch: no process has a tuple in this pass


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

    def __call__(self, passes: list[dict[str, Any]]) -> dict[str, Any]:
        indices = passes[0]["tuples"]
        if not indices:  # trains on nothing; unless it is skipped, it keeps the processes in step
            ids = self.sequences[0].ids[:2]
            batch = self._with_weights(self.collate([{"input_ids": ids, "labels": [-100] * len(ids)}]), [])
            return batch | {SKIPPED: True} if passes[0][SKIPPED] else batch
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

    def __init__(
        self,
        *args: Any,
        send_weights: SendWeights,
        supervised_tokens_per_validation_pass: float = 0.0,
        **kwargs: Any,
    ):
        self.send_weights = send_weights
        self.supervised_tokens_per_validation_pass = supervised_tokens_per_validation_pass
        self._sums: dict[str, Any] = {}  # "train" or "eval" -> (4,): supervised tokens, entropy, correct, tokens
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

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        if inputs.pop(SKIPPED, False):
            return torch.zeros((), device=self.args.device)
        return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's loss from its fused head. Its metrics are summed on the device and exchanged once a log entry: TRL
        itself gathers four of them in each pass and waits for the GPU before the backward pass can start."""
        weights = inputs.pop("loss_weights", None)
        if not self.model.training:
            # The Trainer averages over passes; this turns it into the mean over tokens.
            num_items_in_batch = self.supervised_tokens_per_validation_pass * self.accelerator.num_processes

        def weighted(**kwargs: Any) -> Any:
            outputs = model(**kwargs)
            if weights is not None:
                outputs.log_probs = outputs.log_probs * weights[:, 1:]
            return outputs

        if self.aux_loss_enabled:  # a mixture of experts: TRL adds the loss of its router
            wrapped: Any = weighted  # TRL only calls it
            return super().compute_loss(wrapped, inputs, return_outputs, num_items_in_batch)
        outputs = weighted(**inputs, use_cache=False, fused_lm_head=True)
        self._add_metrics(inputs, outputs)
        # A sum over the processes' tokens, divided by all of them: FSDP averages gradients over processes.
        return -outputs.log_probs.sum() / num_items_in_batch * self.accelerator.num_processes

    def _add_metrics(self, inputs: dict[str, Any], outputs: Any) -> None:
        mask = inputs.get("attention_mask")
        tokens = inputs["input_ids"].new_tensor(inputs["input_ids"].numel()) if mask is None else mask.sum()
        sums = (outputs.label_mask.sum(), outputs.entropy.detach().sum(), outputs.is_top1.sum(), tokens)
        mode = "train" if self.model.training else "eval"
        self._sums[mode] = self._sums.get(mode, 0) + torch.stack([value.double() for value in sums])

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the metrics since the last entry; a collective call."""
        mode = "train" if self.model.training else "eval"
        if mode in self._sums:
            sums: Any = self.accelerator.reduce(self._sums.pop(mode))
            supervised, entropy, correct, tokens = sums.tolist()
            self._total_train_tokens += int(tokens) if mode == "train" else 0
            self._metrics[mode] |= {
                "entropy": [entropy / max(supervised, 1)],
                "mean_token_accuracy": [correct / max(supervised, 1)],
                "num_tokens": [self._total_train_tokens],
            }
        super().log(logs, start_time)

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
        """The weights, which new_model has loaded, before rank 0 loads the optimizer's state beside them."""
        if model is not None:  # sharded
            self.send_weights.send(model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        state = {}
        if self.args.process_index == 0:
            state = load_state(Path(checkpoint) / OPTIMIZER)
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=self.accelerator.num_processes > 1)
        set_optimizer_state_dict(self.model, self.optimizer.optimizer, state, options=options)
        self.lr_scheduler.load_state_dict(load_state(Path(checkpoint) / SCHEDULE))


def optimizer_config(config: SftConfig, lr: float, total_updates: int) -> OptimizerConfig:
    """How the weights of a stage are updated; `lr`: its peak learning rate."""
    return OptimizerConfig(
        lr=lr,
        schedule=config.lr_schedule,
        warmup_updates=math.ceil(config.warmup_ratio * total_updates),
        total_updates=total_updates,
        beta1=config.adam_beta1,
        beta2=config.adam_beta2,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
    )


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
        optim="adamw_torch_fused",  # one kernel for all weights: with few tuples an update, its share is large
        per_device_train_batch_size=1,  # one pass
        per_device_eval_batch_size=1,
        gradient_accumulation_steps=plan.passes_per_update,
        train_sampling_strategy="sequential",
        average_tokens_across_devices=True,
        **optimizer_config(config, learning_rate, len(plan.updates)).trainer_arguments(),
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
    send_weights = SendWeights(model)
    trainer = PackedSFTTrainer(
        model=model,
        args=arguments,
        data_collator=collator,
        train_dataset=_dataset(plan),
        eval_dataset=_dataset(validation) if validation else None,
        processing_class=tokenizer,
        callbacks=[send_weights, CheckpointMarker(), *callbacks],
        send_weights=send_weights,
        supervised_tokens_per_validation_pass=tokens_per_pass,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer


def _dataset(plan: BatchPlan) -> Dataset:
    return Dataset.from_dict({"tuples": plan.passes, SKIPPED: plan.skipped})
