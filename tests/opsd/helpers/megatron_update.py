r"""Run by test_megatron_step.py, once for each rank: the update of a Megatron model on one or two CPU processes.

By tests/gpu/test_megatron_gradients_on_gpu.py on GPUs, with GPU_LAYERS in the environment (megatron_model.py): one
update in bf16.

    RANK=0 WORLD_SIZE=2 MASTER_ADDR=... MASTER_PORT=... python megatron_update.py <layout> <folder>

layout: dense (one process, the model's own full logits, AdamW written out), one (one process), data (data parallel
2), tensor (tensor parallel 2), sequence (that with sequence parallelism), pipeline (2 stages), context (context
parallel 2) or all (4 processes: 2 stages of context parallel 2). Reads work.pt and writes <layout><rank>.pt: what
was found with tied and with untied embeddings, weights and gradients whole.
"""

import math
import re
import sys
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from megatron_model import LAYERS, SIZE, gpt_model, optimizer_and_schedule, parallel_state, unwrap_model, wrapped
from torch import Tensor

from opsd.cpu_offload import PinnedCpuCopies
from opsd.hidden_states import padded
from opsd.kl import KLConfig
from opsd.nemo_rl.worker.megatron_lm_head_hook import run_to_output_layer
from opsd.nemo_rl.worker.megatron_step import MegatronStep
from opsd.nemo_rl.worker.swap_weights import shards, swap_weights
from srt.sft.launch import end_training_process
from tests.srt.helpers.reference_adamw import SETTINGS

STUDENT, TEACHER = 0, 1  # seeds
STD = {"small": 0.2, "wide": 0.02}[SIZE]  # of the weights


SIZES = {  # of tensor, pipeline and context parallelism
    "tensor": (2, 1, 1),
    "sequence": (2, 1, 1),
    "pipeline": (1, 2, 1),
    "context": (1, 1, 2),
    "all": (1, 2, 2),
}


def named(model) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """With the names of a model in one stage."""
    stage = unwrap_model(model)
    first = parallel_state.get_pipeline_model_parallel_rank() * len(stage.decoder.layers)
    for name, parameter in model.named_parameters():
        name = re.sub(r"(?<=layers\.)\d+", lambda found: str(first + int(found[0])), name.replace("module.", ""))
        if stage.share_embeddings_and_output_weights and name == "output_layer.weight":
            name = "embedding.word_embeddings.weight"  # the last stage's copy
        yield name, parameter


def pieces(tensor: Tensor, parameter: Tensor, count: int) -> list[Tensor]:
    return list(tensor.chunk(parameter.partition_stride * count, parameter.partition_dim))


def fill(model, seed: int) -> None:
    """This rank's part of weights that are the same for every layout."""
    rank, size = torch.distributed.get_rank(parallel_state.get_tensor_model_parallel_group()), tensor_parallel()
    for name, parameter in named(model):
        generator = torch.Generator().manual_seed(seed + zlib.crc32(name.encode()))
        shape, split = list(parameter.shape), getattr(parameter, "tensor_model_parallel", False)
        if split:
            shape[parameter.partition_dim] *= size
        values = torch.randn(shape, generator=generator) * STD + ("norm" in name)
        if split:
            values = torch.cat(pieces(values, parameter, size)[rank::size], parameter.partition_dim)
        parameter.data.copy_(values)


def whole(tensor: Tensor, parameter: Tensor) -> Tensor:
    if not getattr(parameter, "tensor_model_parallel", False):
        return tensor.detach().float().clone()
    parts = [torch.empty_like(tensor) for _ in range(tensor_parallel())]
    tensor = tensor.detach().contiguous()
    torch.distributed.all_gather(parts, tensor, group=parallel_state.get_tensor_model_parallel_group())
    by_rank = [pieces(part, parameter, 1) for part in parts]
    in_order = [rank[number] for number in range(len(by_rank[0])) for rank in by_rank]
    return torch.cat(in_order, parameter.partition_dim).float()


def weights(model) -> dict[str, Tensor]:
    return {name: whole(parameter, parameter) for name, parameter in named(model)}


def tensor_parallel() -> int:
    return parallel_state.get_tensor_model_parallel_world_size()


class Worker(MegatronStep):
    """What NeMo-RL's Megatron worker has, on CPUs, with its distributed optimizer."""

    def __init__(self, work: dict[str, Any], tied: bool, sequence_parallel: bool, dtype: torch.dtype):
        self.vocab_size, self.schedule_increment = work["vocab_size"], 8
        teacher = gpt_model(work["rows"], tied, sequence_parallel, dtype)
        fill(teacher, TEACHER)
        self.teacher = {name: tensor.clone() for name, tensor in shards(teacher).items()}
        model = gpt_model(work["rows"], tied, sequence_parallel, dtype)
        fill(model, STUDENT)
        self.model = wrapped(model, distributed_optimizer=True)
        self.copies = PinnedCpuCopies()
        self.optimizer, self.scheduler = optimizer_and_schedule(
            self.model, work["sections"], self.schedule_increment
        )
        self.gradients: list[dict[str, Tensor]] = []
        norm = self.optimizer.get_grad_norm
        self.optimizer.get_grad_norm = lambda: self.note_gradients() or norm()

    def note_gradients(self) -> None:
        self.gradients.append({name: whole(p.main_grad, p) for name, p in named(self.model)})

    def teacher_swapped_in(self):
        return swap_weights(self.model, self.teacher, self.copies)

    def masters(self) -> list[Tensor]:
        (optimizer,) = self.optimizer.chained_optimizers
        return [weight.clone() for group in optimizer.shard_fp32_from_float16_groups for weight in group]


def run(work: dict[str, Any], layout: str, tied: bool) -> dict[str, Any]:
    worker = Worker(work, tied, layout == "sequence", torch.float32)
    shapes = []
    stage = unwrap_model(worker.model)
    layer = stage.output_layer if stage.post_process else torch.nn.Identity()
    spy = layer.register_forward_hook(lambda _, inputs, output: shapes.append(tuple(output[0].shape)))
    before = weights(worker.model)
    updates = work["updates"][layout if layout == "data" else "one"]
    mine = updates[torch.distributed.get_rank() if layout == "data" else 0]
    found = {"scores": worker.score(mine[0], KLConfig(), pad_id=0)}
    shapes.clear()
    found["result"] = worker.distill(mine, KLConfig(), grad_eps=0.0, pad_id=0)
    spy.remove()
    found |= {
        "shapes": shapes,
        "before": before,
        "after": weights(worker.model),
        "gradients": worker.gradients[0],
        "hooks": len(layer._forward_pre_hooks),
    }
    worker._token_weight = lambda tokens: math.nan
    found["broken"] = worker.distill(mine, KLConfig(), grad_eps=0.0, pad_id=0)
    found["after broken"] = weights(worker.model)
    return found


def on_gpu(work: dict[str, Any], layout: str, tied: bool) -> dict[str, Any]:
    worker = Worker(work, tied, layout == "sequence", torch.bfloat16)
    (update,) = worker.distill(work["updates"]["one"][0], KLConfig(), grad_eps=0.0, pad_id=0).updates
    gradients = {name: gradient.cpu() for name, gradient in worker.gradients[0].items()}
    return {"update": update, "gradients": gradients}


def swap(work: dict[str, Any]) -> dict[str, Any]:
    """In bf16, as it is trained: weights and fp32 master weights around a teacher that took their place."""
    worker = Worker(work, True, False, torch.bfloat16)
    mine = work["updates"]["one"][0]
    worker.distill(mine, KLConfig(), grad_eps=0.0, pad_id=0)
    before, masters = weights(worker.model), worker.masters()
    with worker.teacher_swapped_in() as teacher, torch.no_grad():
        within = weights(worker.model)
        rows = [pair.teacher for pair in mine[0].micro_batches[0]]
        run_to_output_layer(teacher, rows, 0, worker.vocab_size, lambda hidden, head: None)
    found = {"before": before, "within": within, "after": weights(worker.model)}
    return found | {"masters before": masters, "masters after": worker.masters()}


# The reference --------------------------------------------------------------------------------------------


def log_probs(model, rows, vocab_size: int) -> Tensor:
    """Of the supervised tokens' positions, from the logits of every position."""
    ids, in_row, positions = padded(rows, 0)
    device = next(model.parameters()).device
    places = torch.arange(ids.shape[1], device=device).expand(len(rows), -1)
    logits = model(ids.to(device), places, None)  # (B, L, rows)
    return logits[in_row, positions, :vocab_size].log_softmax(-1)


def dense(work: dict[str, Any], tied: bool) -> dict[str, Any]:
    student, teacher = (gpt_model(work["rows"], tied, False, torch.float32, "local") for _ in range(2))
    fill(student, STUDENT)
    fill(teacher, TEACHER)
    found = {"token_kl": [], "norms": [], "gradients": []}

    def mean_kl(student, update) -> Tensor:
        total: Any = 0.0
        for batch in update.micro_batches:
            ours = log_probs(student, [pair.student for pair in batch], work["vocab_size"])
            with torch.no_grad():
                theirs = log_probs(teacher, [pair.teacher for pair in batch], work["vocab_size"])
            token_kl = (ours.exp() * (ours - theirs)).sum(-1)
            found["token_kl"].append(token_kl.detach())
            total = total + token_kl.sum() / update.tokens
        return total

    updates = work["updates"]["one"][0]
    mean_kl(student, updates[0]).backward()
    found["gradients"].append({name: p.grad.cpu() for name, p in named(student)})
    if LAYERS:
        return found
    found["token_kl"].clear()
    SETTINGS.train(student, [partial(mean_kl, update=update) for update in updates], found["norms"])
    return found | {"after": weights(student)}


def main(layout: str, folder: str) -> None:
    torch.distributed.init_process_group("nccl" if LAYERS else "gloo")
    if LAYERS:
        torch.cuda.set_device(torch.distributed.get_rank())
    tensor, pipeline, context = SIZES.get(layout, (1, 1, 1))
    parallel_state.initialize_model_parallel(tensor, pipeline, context_parallel_size=context)
    work = torch.load(Path(folder) / "work.pt", weights_only=False)
    update = dense if layout == "dense" else partial(on_gpu if LAYERS else run, layout=layout)
    found: dict[Any, Any] = {tied: update(work, tied=tied) for tied in (True, False)}
    if layout in ("data", "tensor") and not LAYERS:
        found["swap"] = swap(work)
    torch.save(found, Path(folder) / f"{layout}{torch.distributed.get_rank()}.pt")
    end_training_process()


if __name__ == "__main__":
    main(*sys.argv[1:])
