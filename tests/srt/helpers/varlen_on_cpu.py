"""Torch's variable-length kernel on a CPU, with the signature of the pinned torch for GPUs."""

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention


class VarlenOnCpu:
    """Notes its calls. Refuses heads wider than `widest`, and the gradients of those wider than
    `widest_gradient`."""

    def __init__(self, widest: int = 256, widest_gradient: int = 256):
        self.widest, self.widest_gradient = widest, widest_gradient
        self.calls: list[Any] = []
        self.backward_passes = 0

    def forward_calls(self) -> set[Any]:
        """Shapes of query and key, scale and window of each."""
        return set(self.calls)

    def __call__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        cu_seq_q: torch.Tensor,
        cu_seq_k: torch.Tensor,
        max_q: int,
        max_k: int,
        *,
        scale: float | None = None,
        window_size: tuple[int, int] = (-1, -1),
    ) -> torch.Tensor:
        refuse(query, self.widest)
        self.calls.append((tuple(query.shape), tuple(key.shape), scale, window_size))
        left, right = window_size
        assert right == 0 and cu_seq_q is cu_seq_k and max_q == max_k == int(cu_seq_q.diff().max())
        outputs = []
        for start, end in zip(cu_seq_q.tolist(), cu_seq_q.tolist()[1:], strict=False):
            mask = torch.ones(end - start, end - start, dtype=torch.bool).tril()
            mask = mask if left < 0 else mask.triu(-left)
            parts = (tensor[start:end].transpose(0, 1) for tensor in (query, key, value))
            outputs.append(scaled_dot_product_attention(*parts, attn_mask=mask, scale=scale).transpose(0, 1))
        output = torch.cat(outputs)
        output.register_hook(self._backward)
        return output

    def _backward(self, gradient: torch.Tensor) -> None:
        assert gradient.stride(-1) == 1  # else the kernel refuses it
        refuse(gradient, self.widest_gradient)
        self.backward_passes += 1


def refuse(tensor: torch.Tensor, widest: int) -> None:
    if tensor.shape[-1] > widest:
        raise RuntimeError(f"heads of at most {widest} numbers, not {tensor.shape[-1]}")
