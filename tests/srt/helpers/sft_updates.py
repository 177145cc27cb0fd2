"""One update of the trainer, and what it should be: a naive sum over tuples."""

from pathlib import Path

import torch
from transformers import TrainerCallback

from srt.common.models import load_model, load_tokenizer
from srt.contract.layout import TokenSequence
from srt.sft.batching import plan_packed, plan_padded
from srt.sft.config import SftConfig
from srt.sft.packed_attention import choose_attention
from srt.sft.trainer import PassCollator, make_trainer, new_model, training_arguments

Gradients = dict[str, torch.Tensor]


class _Keep(TrainerCallback):
    """Keeps the gradients as they are just before the optimizer takes them."""

    def __init__(self) -> None:
        self.gradients: Gradients = {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradients = {name: p.grad.detach().float().cpu() for name, p in model.named_parameters()}


def one_update(
    checkpoint: Path,
    rows: list[TokenSequence],
    work: Path,
    config: SftConfig,
    packed: bool,
    revision_starts: list[int] | None = None,
) -> tuple[float, Gradients]:
    """Loss and gradients of an update on all rows, with as many passes as the knobs ask for."""
    attention, packs, _ = choose_attention("1" if packed else "0")
    assert packs == packed
    lengths, updates = [len(row.ids) for row in rows], [list(range(len(rows)))]
    if packed:
        plan = plan_packed(updates, lengths, config.max_tokens_per_pass, 1)
    else:
        plan = plan_padded(updates, lengths, config.batch_size_per_device, 1)
    assert plan.passes_per_update > 1, "an update in one pass shows nothing about denominators"
    kept = _Keep()
    trainer = make_trainer(
        new_model(str(checkpoint), config, attention),
        training_arguments(config, work, plan, 1e-6, False),
        PassCollator(rows, 0, packed, revision_starts),
        plan,
        None,
        load_tokenizer(str(checkpoint)),
        [kept],
    )
    trainer.train()
    (loss,) = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return loss, kept.gradients


def naive_update(
    checkpoint: Path, rows: list[TokenSequence], revision_starts: list[int] | None = None
) -> tuple[float, Gradients]:
    """One tuple after the other, in float64 where there is no GPU: sum of weighted losses / supervised tokens."""
    model = load_model(str(checkpoint), "float64", "cpu")
    supervised = sum(len(row.ids) - row.start for row in rows)
    total = torch.zeros((), dtype=torch.float64)
    for number, row in enumerate(rows):
        ids = torch.tensor([row.ids])
        log_probs = model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
        weights = torch.ones(len(row.ids), dtype=torch.float64)
        weights[: row.start] = 0
        if revision_starts:
            weights[revision_starts[number] :] += 1
        total = total - (weights[1:] * log_probs).sum()
    loss = total / supervised
    loss.backward()
    return float(loss.detach()), {name: p.grad.float() for name, p in model.named_parameters()}


def largest_difference(one: Gradients, other: Gradients) -> float:
    """Relative to the norm of each tensor."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).norm() / other[name].norm()) for name in one)
