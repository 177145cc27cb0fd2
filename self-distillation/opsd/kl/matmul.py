"""Matrix products that are never rounded to a narrower dtype than the requested one."""

import torch
from jaxtyping import Float
from torch import Tensor


def can_mm_natively(a: Tensor, b: Tensor) -> bool:
    """Whether the GPU multiplies the two in their own dtype, with fp32 output."""
    return a.is_cuda and a.dtype == b.dtype and a.dtype in (torch.bfloat16, torch.float16)


def mm_fp32(a: Float[Tensor, "M K"], b: Float[Tensor, "K N"], compute: torch.dtype) -> Float[Tensor, "M N"]:
    """a @ b in `compute`: fp32 from bf16 and fp16 operands, without upcasting them where the GPU can."""
    if compute == torch.float32 and can_mm_natively(a, b):
        return torch.mm(a, b, out_dtype=torch.float32)
    return torch.mm(a.to(compute), b.to(compute))


def addmm_fp32(total: Float[Tensor, "M N"], a: Float[Tensor, "M K"], b: Float[Tensor, "K N"]) -> None:
    """total += a @ b, in the dtype of `total`."""
    if total.dtype == torch.float32 and can_mm_natively(a, b):
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    else:
        total.addmm_(a.to(total.dtype), b.to(total.dtype))
