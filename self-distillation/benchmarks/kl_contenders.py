"""What the exact KL is compared with: each contender computes the loss and both gradients of a case."""

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from unittest import mock

import torch
from kl_cases import Case
from torch import Tensor

from opsd.kl import exact_kl
from opsd.kl.chunks import Tokens
from opsd.kl.lm_head import LMHead

Result = tuple[Tensor, Tensor, Tensor]  # loss, dX, dW
PRODUCT_TOKENS = 2048


@dataclass(frozen=True)
class Contender:
    """run(case) -> (loss, dX, dW), or None where only the time matters. memory(case): bytes needed at least."""

    name: str
    run: Callable[[Case], Result | None]
    memory: Callable[[Case], float] = lambda case: 0.0
    accuracy: bool = True


def gradients(loss: Tensor, case: Case) -> Result:
    return loss.detach(), *torch.autograd.grad(loss, (case.student_hidden, case.student_head))


def four_products(case: Case) -> None:
    """The products alone, in bf16, over chunks with preallocated buffers: two forward, dX, dW."""
    hidden, head = case.student_hidden.detach(), case.student_head.detach()
    hidden_gradient, head_gradient = torch.empty_like(hidden), torch.empty_like(head)
    logits = hidden.new_empty(min(PRODUCT_TOKENS, len(hidden)), len(head))
    for start in range(0, len(hidden), PRODUCT_TOKENS):
        tokens = slice(start, start + PRODUCT_TOKENS)
        part = logits[: len(hidden[tokens])]
        torch.mm(case.teacher_hidden[tokens], case.teacher_head.T, out=part)
        torch.mm(hidden[tokens], head.T, out=part)
        torch.mm(part, head, out=hidden_gradient[tokens])
        if start:
            torch.addmm(head_gradient, part.T, hidden[tokens], out=head_gradient)
        else:
            torch.mm(part.T, hidden[tokens], out=head_gradient)


def dense(case: Case, dtype: torch.dtype) -> Result:
    """Full logits, softmax in `dtype`, autograd."""
    hidden, head = case.leaves()
    with torch.no_grad():
        teacher = (case.teacher_hidden @ case.teacher_head.T).to(dtype).log_softmax(-1)
    student = (hidden @ head.T).to(dtype).log_softmax(-1)
    token_kl = (student.exp() * (student - teacher)).sum(-1)
    return gradients((case.weights.to(dtype) * token_kl).sum(), case)


def dense_bytes(case: Case) -> float:
    return 30.0 * len(case.student_hidden) * len(case.student_head)


def ours(case: Case, grad_eps: float, chunk_tokens: int | None = None) -> Result:
    hidden, head = case.leaves()
    out = exact_kl(
        hidden,
        head,
        case.teacher_hidden,
        case.teacher_head,
        case.weights,
        grad_eps=grad_eps,
        chunk_tokens=chunk_tokens,
    )
    ours.dropped = out.dropped_vocab_fraction
    return gradients(out.loss, case)


@contextlib.contextmanager
def bf16_logits() -> Iterator[None]:
    """Logits rounded to bf16, as in most implementations."""

    def logits(self: LMHead, tokens: Tokens) -> Tensor:
        return self.hidden[tokens] @ self.weight[: self.vocab_size].T

    with mock.patch.object(LMHead, "logits", logits):
        yield


def ours_from_bf16_logits(case: Case, grad_eps: float) -> Result:
    with bf16_logits():
        return ours(case, grad_eps)


def liger(case: Case, chunk_size: int, compiled: bool) -> Result:
    from liger_kernel.chunked_loss.jsd_loss import LigerFusedLinearJSDFunction

    hidden, head = case.leaves()
    labels = torch.zeros(len(hidden), dtype=torch.long, device=hidden.device)
    # hard and soft weight, beta = 1 (student to teacher), ignored label, temperature
    arguments = (0.0, 1.0, 1.0, -100, 1.0, compiled, chunk_size)
    loss = LigerFusedLinearJSDFunction.apply(
        hidden, head, case.teacher_hidden, case.teacher_head, labels, None, None, *arguments
    )
    loss = loss[0] if isinstance(loss, tuple) else loss
    return gradients(loss, case)


def trl(case: Case) -> Result:
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    hidden, head = case.leaves()
    token_kl, _ = ChunkedDivergenceFunction.apply(
        hidden, head, None, case.teacher_hidden, case.teacher_head, None, 1.0
    )
    return gradients((case.weights * token_kl).sum(), case)


def contenders(grad_eps: float, liger_compiled: bool) -> list[Contender]:
    others = [
        Contender("four matrix products alone", four_products, accuracy=False),
        Contender("dense torch, fp32 softmax", lambda case: dense(case, torch.float32), dense_bytes),
        Contender("dense torch, bf16", lambda case: dense(case, torch.bfloat16), dense_bytes),
    ]
    if importlib.util.find_spec("liger_kernel"):
        for size in (1024, 2048):
            others.append(
                Contender(
                    f"Liger chunked JSD, chunk {size}", lambda case, size=size: liger(case, size, liger_compiled)
                )
            )
    if importlib.util.find_spec("trl"):
        others.append(Contender("TRL chunked divergence", trl))
    return [
        *others,
        Contender("ours, bf16 logits, flagged entries", lambda case: ours_from_bf16_logits(case, grad_eps)),
        Contender("ours, all entries", lambda case: ours(case, 0.0)),
        Contender("ours, flagged entries", lambda case: ours(case, grad_eps)),
    ]
