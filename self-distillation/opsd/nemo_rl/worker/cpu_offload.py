"""Weights and optimizer state off the GPU and back, through host memory that is pinned once.

They leave it for every rollout. NeMo-RL moves them by Tensor.to(), into memory that the system hands out anew,
page by page, and that the GPU cannot read by itself: 21 s of a step of 27 s for a model of 1.5B parameters.
"""

import torch
from torch import Tensor


class PinnedCpuCopies:
    """A copy of each named tensor's whole storage; a name keeps its memory.

    Tensors keep their identity: only their storages are emptied and filled, so that views into them (FSDP's flat
    shards, say) stay right. Nobody may read a tensor that is off.
    """

    def __init__(self) -> None:
        self._copies: dict[str, Tensor] = {}
        self._off: set[str] = set()

    def offload(self, tensors: dict[str, Tensor]) -> None:
        """Save them and free their storages; those that are off already stay as they are."""
        self.save(tensors)
        for name, storage in _storages(tensors).items():
            storage.resize_(0)
            self._off.add(name)

    def onload(self, tensors: dict[str, Tensor]) -> None:
        """Bring back those that are off."""
        off = {name: tensor for name, tensor in tensors.items() if name in self._off}
        for name, tensor in off.items():
            tensor.untyped_storage().resize_(self._copies[name].numel())
        self.restore(off)
        self._off -= off.keys()

    def save(self, tensors: dict[str, Tensor]) -> None:
        for name, storage in _storages(tensors).items():
            if name not in self._copies or self._copies[name].numel() != storage.nbytes():
                on_gpu = storage.device.type == "cuda"
                self._copies[name] = torch.empty(storage.nbytes(), dtype=torch.uint8, pin_memory=on_gpu)
            self._copies[name].copy_(_bytes(storage), non_blocking=True)
        _wait()

    def restore(self, tensors: dict[str, Tensor]) -> None:
        for name, storage in _storages(tensors).items():
            _bytes(storage).copy_(self._copies[name], non_blocking=True)
        _wait()


def _storages(tensors: dict[str, Tensor]) -> dict[str, torch.UntypedStorage]:
    """Each storage that is not empty, by its first name: tied weights have several."""
    found: dict[int, tuple[str, torch.UntypedStorage]] = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        if storage.nbytes():
            found.setdefault(storage.data_ptr(), (name, storage))
    return dict(found.values())


def _bytes(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _wait() -> None:
    """Until the copies are made: memory that is pinned is read and written behind the host's back."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
