"""A step inside a policy worker: score the teacher's rows with its weights in place, then make the updates.

Only torch is needed here, so that it can be tested without NeMo-RL; worker.py joins it to NeMo-RL's worker.
"""

# ruff: noqa: F722 - the strings in annotations are jaxtyping shapes

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from opsd.kl import KLOptions, KLOutput, exact_kl
from opsd.nemo_rl.at_head import Head, run_to_head
from opsd.nemo_rl.offload import HostMemory
from opsd.nemo_rl.plan import RankUpdate, TwoRows
from opsd.timing import timed
from srt.layout import Row


@dataclass(frozen=True)
class UpdateResult:
    """`outputs`: the KL of each of the rank's micro-batches, on the CPU; None for an empty one.

    `grad_norm`: of all ranks' gradient, before clipping; not finite: the update was not made, nor any after it.
    """

    outputs: list[KLOutput | None]
    grad_norm: float
    lr: float


@dataclass(frozen=True)
class StepResult:
    """`seconds`: of this rank, by what they went to. `peak_memory`: bytes that torch held at most on its GPU."""

    updates: list[UpdateResult]
    seconds: dict[str, float]
    peak_memory: int


class DistillationStep:
    """Mixed into a worker that has what NeMo-RL's DTensor workers have: `model`, `optimizer`, `scheduler`,
    `dtype`, `dp_size`, `dp_cp_mesh`, `tp_mesh`, `max_grad_norm` (None: gradients are not clipped).

    The worker defines `teacher_in_place()`: a context whose value is the teacher's model.
    """

    def distill(
        self, updates: list[RankUpdate], options: KLOptions, grad_eps: float, pad_id: int
    ) -> StepResult:
        """The updates of one step, one after the other, against one teacher.

        The teacher scores everything first: it takes the student's place on the GPU, once in a step. Its hidden
        states stay there, bf16: 128 rows of 8k tokens are 5 GiB for a model 2560 wide, over all ranks.
        """
        seconds: dict[str, float] = {}
        on_gpu = self.model.device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        with timed(seconds, "teacher"), self.teacher_in_place() as teacher:
            hidden, head = self._teacher_hidden(teacher, updates, pad_id)
        self.model.train()
        results = []
        for update, teacher_hidden in zip(updates, hidden, strict=True):
            results.append(self._update(update, teacher_hidden, head, options, grad_eps, pad_id, seconds))
            if not math.isfinite(results[-1].grad_norm):
                break
        self.optimizer.zero_grad(set_to_none=True)
        peak = torch.cuda.max_memory_allocated() if on_gpu else 0
        del hidden, head
        if on_gpu:
            torch.cuda.empty_cache()  # what torch's pool keeps is missing where vLLM wakes up
        return StepResult(results, seconds, peak)

    @torch.no_grad()
    def _teacher_hidden(
        self, teacher: Any, updates: list[RankUpdate], pad_id: int
    ) -> tuple[list[list[Float[Tensor, "T H"]]], Head]:
        """The teacher's hidden states of every micro-batch of every update, and its head."""
        teacher.eval()
        heads: list[Head] = []

        def keep(hidden: Tensor, head: Head) -> Tensor:
            if not heads:
                heads.append(head.copy())
            return hidden.to(head.weight.dtype)

        def score(batch: list[TwoRows]) -> Tensor:
            rows = [pair.teacher for pair in batch or alone(pad_id)]
            return run_to_head(teacher, rows, pad_id, self._autocast, keep)

        hidden = [[score(batch) for batch in update.micro_batches] for update in updates]
        return hidden, heads[0]

    def _update(
        self,
        update: RankUpdate,
        teacher_hidden: list[Float[Tensor, "T H"]],
        teacher_head: Head,
        options: KLOptions,
        grad_eps: float,
        pad_id: int,
        seconds: dict[str, float],
    ) -> UpdateResult:
        """One optimizer step; all data-parallel ranks make it together."""
        outputs: list[KLOutput | None] = []
        # FSDP takes the mean of the ranks' gradients; the loss is a sum over all of them.
        weight = self.dp_size / update.tokens
        self.optimizer.zero_grad(set_to_none=True)
        for batch, hidden in zip(update.micro_batches, teacher_hidden, strict=True):
            with timed(seconds, "student"):
                pairs, scale = (batch, weight) if batch else (alone(pad_id), 0.0)
                output = kl_of_batch(
                    self.model, hidden, teacher_head, pairs, scale, options, grad_eps, pad_id, self._autocast
                )
                output.loss.backward()
            outputs.append(on_cpu(output) if batch else None)
        with timed(seconds, "update"):
            add_partial_gradients(self.model, self.tp_mesh)
            grad_norm = clip_gradients(self.model, self.dp_cp_mesh, self.tp_mesh, self.max_grad_norm)
            if math.isfinite(grad_norm):
                self.optimizer.step()
                self.scheduler.step()
        return UpdateResult(outputs, grad_norm, self.scheduler.get_last_lr()[0])

    @property
    def _autocast(self) -> torch.dtype | None:
        return None if self.dtype == torch.float32 else self.dtype


def kl_of_batch(
    student: Any,
    teacher_hidden: Float[Tensor, "T H"],
    teacher_head: Head,
    batch: list[TwoRows],
    weight: float,
    options: KLOptions,
    grad_eps: float,
    pad_id: int,
    autocast: torch.dtype | None,
) -> KLOutput:
    """The exact KL of a micro-batch, `weight` for each of its tokens; `loss` is differentiable."""
    rows = [pair.student for pair in batch]
    targets = torch.tensor([token for row in rows for token in row.ids[row.start :]], device=teacher_hidden.device)

    def compare(student_hidden: Tensor, head: Head) -> KLOutput:
        return exact_kl(
            student_hidden.to(head.weight.dtype),  # as the head itself would, under autocast
            head.weight,
            teacher_hidden,
            teacher_head.weight,
            student_hidden.new_full((len(targets),), weight, dtype=torch.float32),
            options=options,
            targets=targets,
            student_bias=head.bias,
            teacher_bias=teacher_head.bias,
            # Heads may be padded beyond the tokenizer, each model's differently.
            vocab_size=min(head.vocab_size, teacher_head.vocab_size),
            grad_eps=grad_eps,
            group=head.group,
        )

    return run_to_head(student, rows, pad_id, autocast, compare)


@torch.no_grad()
def add_partial_gradients(model: Any, tp_mesh: DeviceMesh) -> None:
    """Make the gradients of the norms of single heads whole, which tensor parallelism leaves in parts.

    Every rank has a copy of these weights (Qwen3's q_norm, k_norm) and applies it to its own heads only: without
    this, the copies drift apart.
    """
    if tp_mesh.size() == 1:
        return
    config = model.config.get_text_config()
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    for name, parameter in model.named_parameters():
        of_a_head = name.endswith(("q_norm.weight", "k_norm.weight")) and parameter.numel() == head_size
        if of_a_head and parameter.grad is not None:
            torch.distributed.all_reduce(local(parameter.grad), group=tp_mesh.get_group())


@torch.no_grad()
def clip_gradients(model: Any, dp_mesh: DeviceMesh, tp_mesh: DeviceMesh, most: float | None) -> float:
    """The norm of the whole model's gradient, which is then scaled to at most `most`.

    What every tensor-parallel rank has a copy of counts once.
    """
    with_gradient = [parameter for parameter in model.parameters() if parameter.grad is not None]
    squares = torch.zeros(2, device=model.device)  # of weights that tensor parallelism splits, and of all others
    for parameter in with_gradient:
        squares[0 if _split_over(parameter, "tp") else 1] += local(parameter.grad).float().square().sum()
    torch.distributed.all_reduce(squares, group=dp_mesh.get_group())
    torch.distributed.all_reduce(squares[0], group=tp_mesh.get_group())
    norm = float(squares.sum().sqrt())
    if most is not None and norm > most:
        for parameter in with_gradient:
            local(parameter.grad).mul_(most / norm)
    return norm


def _split_over(parameter: Tensor, axis: str) -> bool:
    if not isinstance(parameter, DTensor):
        return False
    axes = parameter.device_mesh.mesh_dim_names or ()
    return axis in axes and parameter.placements[axes.index(axis)].is_shard()


def alone(pad_id: int) -> list[TwoRows]:
    """Two rows of one token for a rank that has nothing to do in a round; they weigh nothing."""
    row = Row([pad_id, pad_id], start=1)
    return [TwoRows(row, row)]


@contextlib.contextmanager
def weights_in_place(model: Any, weights: dict[str, Tensor], host: HostMemory) -> Iterator[Any]:
    """`model` with other weights for the block, then its own again, bit for bit, also after an error.

    weights: by name, this rank's shards on the CPU. host: where the model's own wait.
    """
    own = shards(model)
    host.save(own)
    try:
        for name, tensor in own.items():
            tensor.copy_(weights[name])
        yield model
    finally:
        _reshard(model)
        host.restore(own)


def shards(model: Any) -> dict[str, Tensor]:
    """This rank's shard of each weight, in the weight's own memory, and nothing gathered beside it.

    Names as in a state_dict: named_parameters() would name the wrappers of activation checkpointing, too.
    """
    # A root that still holds its gathered weights would go on with those, whatever its shards say.
    _reshard(model)
    return {name: local(tensor) for name, tensor in model.state_dict().items()}


def local(tensor: Tensor) -> Tensor:
    """This rank's shard, in the tensor's own memory, without its gradient."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _reshard(model: Any) -> None:
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def on_cpu(output: KLOutput) -> KLOutput:
    tensors = {field.name: getattr(output, field.name) for field in fields(output)}
    return replace(output, **{name: x.detach().cpu() for name, x in tensors.items() if isinstance(x, Tensor)})
