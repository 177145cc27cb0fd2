"""Weights and optimizer state off the GPU and back, through host memory that is pinned once.

They leave it for every rollout. NeMo-RL moves them with Tensor.to(), into memory that the system hands out anew,
page by page, and that the GPU cannot read directly: 21 s of a 27 s step for a model of 1.5B parameters.
"""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor


class PinnedCpuCopies:
    """A copy of each named tensor's whole storage; a name keeps its memory.

    Tensors keep their identity: only their storages are emptied and filled, so that views into them (FSDP's flat
    shards, for example) stay valid. A tensor must not be read while it is offloaded.
    """

    def __init__(self) -> None:
        self._copies: dict[str, Tensor] = {}
        self._offloaded: set[str] = set()

    def offload(self, tensors: dict[str, Tensor]) -> None:
        """Save them and free their storages; those that are offloaded already are left alone."""
        self.save(tensors)
        for name, storage in _storages(tensors).items():
            storage.resize_(0)
            self._offloaded.add(name)

    def onload(self, tensors: dict[str, Tensor]) -> None:
        """Bring back those that are offloaded."""
        offloaded = {name: tensor for name, tensor in tensors.items() if name in self._offloaded}
        for name, tensor in offloaded.items():
            tensor.untyped_storage().resize_(self._copies[name].numel())
        self.restore(offloaded)
        self._offloaded -= offloaded.keys()

    def save(self, tensors: dict[str, Tensor]) -> None:
        for name, storage in _storages(tensors).items():
            if name not in self._copies or self._copies[name].numel() != storage.nbytes():
                on_gpu = storage.device.type == "cuda"
                self._copies[name] = torch.empty(storage.nbytes(), dtype=torch.uint8, pin_memory=on_gpu)
            self._copies[name].copy_(_bytes(storage), non_blocking=True)
        _synchronize()

    def restore(self, tensors: dict[str, Tensor]) -> None:
        for name, storage in _storages(tensors).items():
            _bytes(storage).copy_(self._copies[name], non_blocking=True)
        _synchronize()


class OffGpu:
    """Tensors that are in host memory except inside `present()`; everywhere, unless `enabled`."""

    def __init__(self, tensors: Callable[[], dict[str, Tensor]], enabled: bool):
        """`tensors`: by name; some may appear later, as Adam's moments do."""
        self._tensors = tensors
        self._enabled = enabled
        self._copies = PinnedCpuCopies()
        if enabled:
            for tensor in tensors().values():
                if not tensor.untyped_storage().resizable():  # as they come from a file without a GPU
                    tensor.data = tensor.data.clone()
        with self.present():
            pass

    @contextlib.contextmanager
    def present(self) -> Iterator[None]:
        if not self._enabled:
            yield
            return
        self._copies.onload(self._tensors())
        try:
            yield
        finally:
            self._copies.offload(self._tensors())
            if torch.cuda.is_available():
                torch.cuda.empty_cache()  # for the sampler, which is not torch's allocator


def _storages(tensors: dict[str, Tensor]) -> dict[str, torch.UntypedStorage]:
    """Each storage that is not empty, by its first name: tied weights have several."""
    by_address: dict[int, tuple[str, torch.UntypedStorage]] = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        if storage.nbytes():
            by_address.setdefault(storage.data_ptr(), (name, storage))
    return dict(by_address.values())


def _bytes(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _synchronize() -> None:
    """Wait for the copies: pinned memory is read and written without the host noticing."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
