r"""Run by test_dtensor_step.py, once for each of two ranks: updates of a sharded model on two CPU processes.

    RANK=0 WORLD_SIZE=2 MASTER_ADDR=... MASTER_PORT=... STUDENT=<folder> TEACHER=<folder> \
        python sharded_update.py <layout> <folder>

layout: fsdp (data parallel 2) or tp (tensor parallel 2). Reads work.pt, with the updates and the sections of
NeMo-RL's configuration that describe them, and writes <layout><rank>.pt: the results of the updates, and the
student's gradients and weights, whole; then the results of updates with other losses, at a rate of 0, and of the
same updates with padded and with packed passes.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from transformers import AutoModelForCausalLM

from opsd.cpu_offload import PinnedCpuCopies
from opsd.kl import KLConfig
from opsd.nemo_rl.worker.dtensor_step import DTensorStep
from opsd.nemo_rl.worker.swap_weights import shards, swap_weights
from srt.sft.launch import end_training_process


class Worker(DTensorStep):
    """What NeMo-RL's DTensor worker has, on CPUs: layers and root sharded as by its _parallelize_model."""

    def __init__(self, layout: str, student: str, teacher: str, sections: dict[str, Any]):
        self.dtype = torch.float32
        self.dp_size, tp_size = (2, 1) if layout == "fsdp" else (1, 2)
        mesh = init_device_mesh("cpu", (self.dp_size, tp_size), mesh_dim_names=("dp", "tp"))
        self.dp_cp_mesh, self.tp_mesh, self.max_grad_norm = mesh["dp"], mesh["tp"], sections["max_grad_norm"]
        self.model = self._sharded(student, mesh, tp_size)
        self.teacher = {n: shard.clone() for n, shard in shards(self._sharded(teacher, mesh, tp_size)).items()}
        self.copies = PinnedCpuCopies()
        # As NeMo-RL's worker makes them.
        self.optimizer = by_name(sections["optimizer"])(self.model.parameters(), **sections["optimizer"]["kwargs"])
        self.scheduler = by_name(sections["scheduler"])(self.optimizer, **sections["scheduler"]["kwargs"])
        self.gradients: list[dict[str, torch.Tensor]] = []
        self.optimizer.register_step_pre_hook(lambda *_: self._note_gradients())

    def _sharded(self, folder: str, mesh, tp_size: int):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        if tp_size > 1:
            attention = {f"self_attn.{name}_proj": ColwiseParallel() for name in "qkv"}
            mlp = {f"mlp.{name}_proj": ColwiseParallel() for name in ("gate", "up")}
            row = {"self_attn.o_proj": RowwiseParallel(), "mlp.down_proj": RowwiseParallel()}
            plan = {f"model.layers.*.{name}": style for name, style in {**attention, **mlp, **row}.items()}
            plan["model.embed_tokens"] = RowwiseParallel(input_layouts=Replicate())
            plan["lm_head"] = ColwiseParallel(output_layouts=Shard(-1), use_local_output=False)
            parallelize_module(model, mesh["tp"], plan)
        for layer in model.model.layers:
            layer.mlp, layer.self_attn = checkpoint_wrapper(layer.mlp), checkpoint_wrapper(layer.self_attn)
            fully_shard(layer, mesh=mesh["dp"])
        model = fully_shard(model, mesh=mesh["dp"], reshard_after_forward=False)
        model.tie_weights()
        return model

    def _note_gradients(self) -> None:
        self.gradients.append({plain(name): whole(p.grad) for name, p in self.model.named_parameters()})

    def teacher_swapped_in(self):
        return swap_weights(self.model, self.teacher, self.copies)


def by_name(section: dict[str, Any]) -> Any:
    module, _, name = section["name"].rpartition(".")
    return getattr(importlib.import_module(module), name)


def weights(model) -> dict[str, torch.Tensor]:
    return {plain(name): whole(parameter) for name, parameter in model.named_parameters()}


def plain(name: str) -> str:
    return name.replace("_checkpoint_wrapped_module.", "")


def whole(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).clone()


def main(layout: str, folder: str) -> None:
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    work = torch.load(Path(folder) / "work.pt", weights_only=False)
    updates = work["updates"][layout][rank]
    worker = Worker(layout, os.environ["STUDENT"], os.environ["TEACHER"], work["sections"])
    before = weights(worker.model)
    scores = worker.score(updates[0], KLConfig(), pad_id=0)
    gathered = [name for name, p in worker.model.named_parameters() if not isinstance(p, DTensor)]
    result = worker.distill(updates, KLConfig(), grad_eps=0.0, pad_id=0)
    gradients = list(worker.gradients)
    gradients_left = [name for name, parameter in worker.model.named_parameters() if parameter.grad is not None]
    restored = swap_weights(worker.model, worker.teacher, worker.copies)
    after = weights(worker.model)
    with restored:
        pass
    again = weights(worker.model)
    worker.copies.offload(shards(worker.model))
    bytes_left = sum(shard.untyped_storage().nbytes() for shard in shards(worker.model).values())
    worker.copies.onload(shards(worker.model))
    back = weights(worker.model)
    found = {
        "scores": scores,
        "gathered": gathered,
        "result": result,
        "gradients": gradients,
        "gradients_left": gradients_left,
        "before": before,
        "after": after,
        "again": again,
        "bytes_left": bytes_left,
        "back": back,
    }
    worker = Worker(layout, os.environ["STUDENT"], os.environ["TEACHER"], work["sections at rate 0"])
    # After a forward pass without a backward one, the root module still holds gathered weights.
    sequences = [pair.student for pair in updates[0].micro_batches[0]]
    with torch.no_grad():
        worker._run_to_lm_head(worker.model, sequences, 0, lambda hidden, head: None)
        with worker.teacher_swapped_in() as swapped_in:
            found["teacher"] = worker._run_to_lm_head(
                swapped_in, sequences, 0, lambda hidden, head: hidden.clone()
            )
    found["other losses"] = [
        worker.distill(updates[:1], **loss, pad_id=0).updates[0] for loss in work["other losses"]
    ]
    for name in ("padded", "packed"):
        if name == "packed":
            worker.pack()
        worker.gradients.clear()
        scores = worker.score(updates[0], KLConfig(), pad_id=0)
        result = worker.distill(updates, KLConfig(), grad_eps=0.0, pad_id=0)
        found[name] = {"scores": scores, "result": result, "gradients": list(worker.gradients)}
    torch.save(found, Path(folder) / f"{layout}{rank}.pt")
    end_training_process()


if __name__ == "__main__":
    main(*sys.argv[1:])
