"""One update of the trainer, and its reference: a naive sum over tuples."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from srt.common.files import read_json
from srt.common.models import load_model, load_tokenizer
from srt.contract.layout import TokenSequence
from srt.sft.batching import plan_packed, plan_padded
from srt.sft.config import SftConfig
from srt.sft.model_check import check_model
from srt.sft.trainer import PassCollator, make_trainer, training_arguments
from srt.sft.weights import new_model, trained_weights

Gradients = dict[str, torch.Tensor]


class _GradientRecorder(TrainerCallback):
    """Copies the gradients just before the optimizer step."""

    def __init__(self) -> None:
        self.gradients: Gradients = {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradients = {name: p.grad.detach().float().cpu() for name, p in model.named_parameters()}


def one_update(
    checkpoint: Path,
    sequences: list[TokenSequence],
    work_dir: Path,
    config: SftConfig,
    packed: bool,
    revision_starts: list[int] | None = None,
) -> tuple[float, Gradients]:
    """Loss and gradients of one update on all sequences, in as many passes as the configuration requires."""
    lengths, updates = [len(sequence.ids) for sequence in sequences], [list(range(len(sequences)))]
    attention = check_model(replace(config, packing="1" if packed else "0"), max(lengths))
    assert attention.packed == packed
    if packed:
        plan = plan_packed(updates, lengths, config.max_tokens_per_pass, 1)
    else:
        plan = plan_padded(updates, lengths, config.batch_size_per_device, 1)
    assert plan.passes_per_update > 1, "an update in a single pass says nothing about denominators"
    recorder = _GradientRecorder()
    trainer = make_trainer(
        new_model(str(checkpoint), config, attention.implementation),
        training_arguments(config, work_dir, plan, 1e-6, False),
        PassCollator(sequences, 0, packed, revision_starts),
        plan,
        None,
        load_tokenizer(str(checkpoint)),
        [recorder],
    )
    trainer.train()
    (loss,) = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return loss, recorder.gradients


class _StopAfter(TrainerCallback):
    """Ends the training early, as a killed run: the schedule is that of the whole one."""

    def __init__(self, updates: int):
        self.updates = updates

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.updates
        return control


def weights_after(
    checkpoint: Path,
    sequences: list[TokenSequence],
    updates: list[list[int]],
    work_dir: Path,
    config: SftConfig,
    lr: float,
    stop_after: int,
) -> dict[str, torch.Tensor]:
    """The trained weights after the first of `updates`, each of which names its sequences; padded."""
    attention = check_model(replace(config, packing="0"), max(len(s.ids) for s in sequences))
    plan = plan_padded(updates, [len(s.ids) for s in sequences], config.batch_size_per_device, 1)
    trainer = make_trainer(
        new_model(str(checkpoint), config, attention.implementation),
        training_arguments(config, work_dir, plan, lr, False),
        PassCollator(sequences, 0, False),
        plan,
        None,
        load_tokenizer(str(checkpoint)),
        [_StopAfter(stop_after)],
    )
    trainer.train()
    return trained_weights(trainer.model)


def naive_update(
    checkpoint: Path, sequences: list[TokenSequence], revision_starts: list[int] | None = None
) -> tuple[float, Gradients]:
    """The loss below on the checkpoint, and its gradients."""
    model = load_model(str(checkpoint), "float64", "cpu")
    loss = naive_loss(model, sequences, revision_starts)
    loss.backward()
    return float(loss.detach()), {name: p.grad.float() for name, p in model.named_parameters()}


def naive_loss(
    model: Any, sequences: list[TokenSequence], revision_starts: list[int] | None = None
) -> torch.Tensor:
    """One tuple at a time, on the CPU in float64: sum of weighted losses / number of supervised tokens."""
    supervised = sum(len(sequence.ids) - sequence.start for sequence in sequences)
    total = torch.zeros((), dtype=torch.float64)
    for number, sequence in enumerate(sequences):
        ids = torch.tensor([sequence.ids])
        log_probs = model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
        weights = torch.ones(len(sequence.ids), dtype=torch.float64)
        weights[: sequence.start] = 0
        if revision_starts:
            weights[revision_starts[number] :] += 1
        total = total - (weights[1:] * log_probs).sum()
    return total / supervised


def log_of(stage_folder: Path) -> list[dict]:
    """The entries of training_log.json that describe updates."""
    return [entry for entry in read_json(stage_folder / "training_log.json") if "loss" in entry]


def largest_difference(actual: Gradients, expected: Gradients) -> float:
    """Relative to the norm of each expected tensor."""
    assert actual.keys() == expected.keys()
    return max(float((actual[name] - expected[name]).norm() / expected[name].norm()) for name in actual)
