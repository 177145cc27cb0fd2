r"""Run by test_megatron_worker.py, once for each rank: NeMo-RL's Megatron worker with our step, on CPUs.

    RANK=0 LOCAL_RANK=0 WORLD_SIZE=2 MASTER_ADDR=... MASTER_PORT=... STUDENT=<folder> \
        python megatron_worker_on_cpu.py <layout> <folder>

layout: one of SHAPES (tensor: with sequence parallelism), or "again <layout>": continued from its checkpoint. The
worker, Megatron-Bridge's conversions and checkpoints are the real ones, and so is our configuration, with
MEGATRON_LAYERS=local and, but for bf16, fp32. Reads work.pt and writes <layout><rank>.pt.
"""

import contextlib
import os
import sys
import types
from pathlib import Path
from typing import Any

os.environ |= {"TORCHDYNAMO_DISABLE": "1", "NRL_MEGATRON_CHECKPOINT_DIR": str(Path(sys.argv[-1], sys.argv[1]))}
os.environ["CUDA_VISIBLE_DEVICES"] = "6,7"  # torch counts them from 0; Ray names them by their numbers

from opsd.nemo_rl.driver import runtime  # noqa: E402

runtime.prepare()
# NeMo-RL puts its checkout, which has a package `tests` too, first. Processes that Megatron starts have this path.
sys.path.insert(0, str(Path(__file__).parents[3]))

import megatron_on_cpu  # noqa: E402, F401 - puts the CPU in the place of GPUs
import numpy as np  # noqa: E402
import ray  # noqa: E402
import torch  # noqa: E402


class Stream:
    device_index = 0

    def __init__(self, *_, **__): ...

    def wait_stream(self, *_) -> None: ...

    def synchronize(self) -> None: ...


def current_device() -> Any:
    """NeMo-RL's worker compares it with its rank on the node; all others make tensors on it."""
    caller = sys._getframe(1).f_globals["__name__"]
    return 0 if caller.endswith("megatron_policy_worker") else torch.device("cpu")


def set_device(index: Any) -> None:
    assert not isinstance(index, int) or index == 0, f"CUDA error: invalid device ordinal {index}"


init_process_group = torch.distributed.init_process_group
torch.distributed.init_process_group = lambda *_, **__: init_process_group("gloo")
torch.cuda.current_device, torch.cuda.set_device = current_device, set_device
torch.cuda.device_count, torch.cuda.is_available = lambda: 1, lambda: True
torch.cuda.empty_cache = torch.cuda.manual_seed = lambda *_: None
torch.cuda.get_rng_state = lambda *_: torch.get_rng_state()
torch.cuda.default_generators = (torch.Generator(),)
torch.cuda.get_device_capability = lambda *_: (9, 0)
torch.cuda.get_device_properties = lambda *_: types.SimpleNamespace(major=9, minor=0, multi_processor_count=1)
torch.cuda.Stream = Stream
torch.cuda.current_stream, torch.cuda.stream = lambda *_: Stream(), lambda *_: contextlib.nullcontext()
ray.get_gpu_ids = lambda: [6]

import opsd.nemo_rl.worker.without_transformer_engine  # noqa: E402, F401 - before Megatron-Bridge

# isort: split
from nemo_rl.distributed.named_sharding import NamedSharding  # noqa: E402
from nemo_rl.utils.checkpoint import CheckpointManager  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

from opsd.config import DistillConfig  # noqa: E402
from opsd.kl import KLConfig  # noqa: E402
from opsd.nemo_rl.driver.config import ClusterShape, generation_config, policy_config  # noqa: E402
from opsd.nemo_rl.worker.megatron import MegatronDistillationWorkerImpl  # noqa: E402
from opsd.nemo_rl.worker.swap_weights import shards  # noqa: E402
from srt.config import load_config  # noqa: E402
from srt.sft.launch import end_training_process  # noqa: E402
from tests.srt.helpers.reference_adamw import KNOBS, PEAK, TOTAL_UPDATES  # noqa: E402

SHAPES = {  # ranks, and of those for tensor, pipeline and context parallelism
    "one": (1, 1, 1, 1),
    "bf16": (1, 1, 1, 1),
    "data": (2, 1, 1, 1),
    "tensor": (2, 2, 1, 1),
    "pipeline": (2, 1, 2, 1),
    "context": (2, 1, 1, 2),
}


def configuration(student: str, shape: ClusterShape, bf16: bool) -> dict[str, Any]:
    """Ours, for fp32 unless `bf16`."""
    settings = {"trainer_backend": "megatron", "student_model": student, "gradient_checkpointing": 0}
    settings |= KNOBS | {"lr": PEAK, "warmup_steps": 1, "megatron_layers": "local"}
    config = load_config(DistillConfig, "distill", [f"{name}={value}" for name, value in settings.items()])
    policy_section = policy_config(
        config, shape, generation_config(config, shape, 100, [1], 0, 0.5), total_updates=TOTAL_UPDATES
    )
    megatron = policy_section["megatron_cfg"]
    if not bf16:
        policy_section["precision"] = megatron["pipeline_dtype"] = "float32"
        megatron["optimizer"]["bf16"] = False
    megatron["bias_activation_fusion"] = False  # is compiled
    return policy_section


def start(student: str, layout: str, saved: Path | None = None) -> MegatronDistillationWorkerImpl:
    """`saved`: the folder of a checkpoint to continue from."""
    ranks, tensor, pipeline, context = SHAPES[layout]
    shape = ClusterShape(1, ranks, tensor, 1, pipeline, context)
    axes = ["pipeline_parallel", "data_parallel", "context_parallel", "tensor_parallel"]
    worker = MegatronDistillationWorkerImpl(
        configuration(student, shape, layout == "bf16"),
        AutoTokenizer.from_pretrained(student),
        weights_path=saved and str(saved / "weights"),
        optimizer_path=saved and str(saved / "optimizer"),
        worker_sharding_annotations=NamedSharding(
            layout=np.arange(ranks).reshape(pipeline, -1, context, tensor), names=axes
        ),
    )
    torch.cuda.is_available = lambda: False  # only Megatron's start asks for more than a device's name
    return worker


def copies(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def optimizer_state(worker: MegatronDistillationWorkerImpl) -> dict[str, torch.Tensor]:
    """This rank's moments, and master weights where there are any."""
    state = {
        f"{index} {name}": x
        for index, (_, of) in enumerate(worker.optimizer.state.items())
        for name, x in of.items()
        if isinstance(x, torch.Tensor)
    }
    return state | worker._master_weights


def again(layout: str, folder: Path, work: dict[str, Any]) -> None:
    """One more update, of a run that was continued from a checkpoint."""
    rank, layout = int(os.environ["RANK"]), layout.removeprefix("again ")
    worker = start(os.environ["STUDENT"], layout, folder / f"of {layout}" / "policy")
    found = {"weights": copies(shards(worker.model)), "optimizer": copies(optimizer_state(worker))}
    found["teacher"] = worker.reference_state_dict
    worker.prepare_for_training()
    updates = work["data"][rank] if layout == "data" else work["one"][0]
    found["next"] = worker.distill(updates[:1], KLConfig(), grad_eps=0.0, pad_id=0)
    found["student"] = copies(shards(worker.model))
    torch.save(found, folder / f"again {layout}{rank}.pt")


def main(layout: str, folder: str) -> None:
    rank, student = int(os.environ["RANK"]), os.environ["STUDENT"]
    work, own = torch.load(Path(folder) / "work.pt", weights_only=False), Path(folder) / f"of {layout}"
    if layout.startswith("again "):
        again(layout, Path(folder), work)
        return
    worker = start(student, layout)
    updates = work["data"][rank] if layout == "data" else work["one"][0]

    def distill(count: int | None = None):
        return worker.distill(updates[:count], KLConfig(), grad_eps=0.0, pad_id=0)

    def memory() -> int:
        buffers = [buffer for held in worker.model.buffers for buffer in (held.param_data, held.grad_data)]
        state = [x for x in optimizer_state(worker).values() if x.ndim]
        return sum(tensor.untyped_storage().nbytes() for tensor in buffers + state)

    worker.export_student(student, torch.float32, str(own / "start"))
    found = {"names for vLLM": sorted(worker.prepare_refit_info())}
    worker.prepare_for_training()
    found["result"] = distill()
    found["before"], found["on"] = copies(shards(worker.model)), memory()
    found["optimizer"] = copies(optimizer_state(worker))
    worker.offload_after_refit()
    found["off"] = memory()
    worker.offload_before_refit()
    worker.export_student(student, torch.float32, str(own / "student"))
    worker.prepare_for_training()
    found["back"] = copies(shards(worker.model))
    worker.save_checkpoint(str(own / "policy" / "weights"), str(own / "policy" / "optimizer"))
    found["resume"] = CheckpointManager.get_resume_paths(own)
    found["next"] = distill(1)
    found["student after next"] = copies(shards(worker.model))

    worker.scheduler.num_steps = 0  # the schedule has ended: its start again
    worker.scheduler.step(increment=worker.schedule_increment)
    worker.sync_teacher()
    worker.save_teacher(str(own / "teacher"))
    found["saved teacher"] = copies(worker.reference_state_dict)
    found["second result"] = distill()
    found["student"] = copies(shards(worker.model))
    worker.sync_teacher()
    worker.restore_teacher(str(own / "teacher"))
    found["restored teacher"], found["student after"] = worker.reference_state_dict, copies(shards(worker.model))
    torch.save(found, Path(folder) / f"{layout}{rank}.pt")
    end_training_process()


if __name__ == "__main__":
    main(*sys.argv[1:])
