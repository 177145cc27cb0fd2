"""Matrix products that are never rounded to a narrower dtype than the one asked for."""

import torch
from jaxtyping import Float
from torch import Tensor


def multiplied_as_is(a: Tensor, b: Tensor) -> bool:
    return a.is_cuda and a.dtype == b.dtype and a.dtype in (torch.bfloat16, torch.float16)


def product(a: Float[Tensor, "M K"], b: Float[Tensor, "K N"], compute: torch.dtype) -> Float[Tensor, "M N"]:
    """a @ b in `compute`, never rounded to a narrower dtype."""
    if compute == torch.float32 and multiplied_as_is(a, b):
        return torch.mm(a, b, out_dtype=torch.float32)
    return torch.mm(a.to(compute), b.to(compute))


def add_product(total: Float[Tensor, "M N"], a: Float[Tensor, "M K"], b: Float[Tensor, "K N"]) -> None:
    """total += a @ b, in the dtype of total."""
    if total.dtype == torch.float32 and multiplied_as_is(a, b):
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    else:
        total.addmm_(a.to(total.dtype), b.to(total.dtype))
