"""The weights that a rank holds, however the model is sharded, and other weights in their place for a while."""

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from opsd.cpu_offload import PinnedCpuCopies


@contextlib.contextmanager
def swap_weights(model: Any, weights: dict[str, Tensor], copies: PinnedCpuCopies) -> Iterator[Any]:
    """`model` with other weights for the block, then its own again, bit for bit, also after an error.

    weights: by name, this rank's shards on the CPU. copies: where the model's own weights are kept meanwhile.
    """
    own = shards(model)
    copies.save(own)
    try:
        for name, tensor in own.items():
            tensor.copy_(weights[name])
        yield model
    finally:
        reshard(model)
        copies.restore(own)


def shards(model: Any) -> dict[str, Tensor]:
    """This rank's shard of each weight, in the weight's own memory, with nothing gathered beside it.

    Names as in a state_dict: named_parameters() would include the wrappers of activation checkpointing.
    """
    # A root module that still holds gathered weights would continue with those, whatever its shards contain.
    reshard(model)
    return {name: local_shard(tensor) for name, tensor in weights_only(model.state_dict()).items()}


def weights_only(state: dict[str, Any]) -> dict[str, Tensor]:
    """A state_dict without the "extra state" that Megatron's layers keep for fp8, as a tensor or not."""
    return {
        name: value
        for name, value in state.items()
        if isinstance(value, Tensor) and not name.endswith("_extra_state")
    }


def local_shard(tensor: Tensor) -> Tensor:
    """This rank's shard, in the tensor's own memory, without its gradient."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def reshard(model: Any) -> None:
    """Free the weights that FSDP2 has gathered, as a backward pass does."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
