"""Puts the CPU in the place of GPUs for Megatron-Core, which says "cuda" in many places. To be imported first."""

import contextlib

import torch
from torch.overrides import TorchFunctionMode


class CudaIsTheCpu(TorchFunctionMode):
    """For tensors that are made on "cuda" by name, and for who looks whether a tensor's type is a GPU's."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if str(kwargs.get("device", "")).startswith("cuda"):
            kwargs["device"] = "cpu"
        kwargs.pop("pin_memory", None)
        result = function(*args, **kwargs)
        if function is torch.Tensor.type and len(args) == 1:
            return result.replace("torch.", "torch.cuda.")
        return result


CudaIsTheCpu().__enter__()
torch.cuda.current_device = lambda: torch.device("cpu")
torch.cuda.synchronize = lambda *_: None
torch.Tensor.cuda = lambda tensor, *_, **__: tensor

from megatron.core.tensor_parallel.random import CudaRNGStatesTracker  # noqa: E402

CudaRNGStatesTracker.fork = lambda *_: contextlib.nullcontext()  # for dropout, of which there is none
