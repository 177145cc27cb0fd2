"""What a model does to its logits after the LM head, found by asking its own forward pass."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributed.tensor import DTensor

from opsd.determinism import probe_ids, probe_logits
from opsd.hidden_states import LMHead, lm_head_of, predicting_hidden
from opsd.kl import LogitTransform
from opsd.kl.logit_transform import apply
from srt.common.errors import UserError
from srt.contract.layout import TokenSequence

# What is put in the place of the LM head's output. The small ones show the scale, the largest one the cap.
PROBES = (0.0, 1e-3, -1e-3, 0.1, -0.1, 1.0, -1.0, 5.0, -5.0, 20.0, -20.0, 100.0, -100.0, 1e3, 1e6, -1e6)
TOLERANCE = 0.02  # bf16 rounds to 0.4%

Forward = Callable[[Int[Tensor, "1 L"]], Tensor]  # (1, L) ids -> (1, L, V) logits


@torch.no_grad()
def find_logit_transform(model: Any, name: str, forward: Forward | None = None) -> LogitTransform:
    """The scale and the cap that the model's forward pass applies to the output of its LM head.

    Two forward passes over a few tokens. In the first, known numbers take the place of the head's output; in the
    second, hidden states, head and transform must give the model's logits.

    forward: how to call the model, if not plainly. All ranks that share a model must call together.
    Raises UserError for a model that does anything else to its logits.
    """
    forward = forward or partial(probe_logits, model)
    head, ids = model.get_output_embeddings(), probe_ids(model)
    transform = _fit(_seen_after(head, lambda: forward(ids)), name)
    expected: list[Tensor] = []

    def compute(layer: Any, inputs: tuple[Tensor, ...]) -> None:
        expected.append(_logits(inputs[0][0], lm_head_of(layer), transform))

    # Before the hooks of tensor parallelism, which turn the hidden states into a DTensor.
    handle = head.register_forward_pre_hook(compute, prepend=True)
    try:
        logits = _local(forward(ids))[0].float()  # (L, V)
    finally:
        handle.remove()
    _require_equal(logits, expected[0], name, "the output of its LM head")
    return transform


@torch.no_grad()
def check_logits(model: Any, name: str, head: LMHead) -> None:
    """Raises UserError when the model's logits are not what its last hidden states and `head` give."""
    ids = probe_ids(model)
    sequence = TokenSequence(ids[0].tolist(), start=1)
    expected = _logits(predicting_hidden(model, [sequence], pad_id=0), head, head.transform)
    logits = probe_logits(model, ids)[0, :-1]
    _require_equal(logits.float(), expected, name, "its last hidden states times its LM head")


def _logits(hidden: Float[Tensor, "L H"], head: LMHead, transform: LogitTransform) -> Float[Tensor, "L V"]:
    logits = hidden.to(head.weight.dtype).float() @ head.weight.float().T
    if head.bias is not None:
        logits = logits + head.bias.float()
    return apply(transform, logits)


def _seen_after(head: Any, forward: Callable[[], Tensor]) -> Float[Tensor, "P V"]:
    """What becomes of PROBES, one for each position, in the place of the head's output."""

    def replace(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        local = _local(output)
        values = torch.tensor(PROBES, device=local.device)[:, None].expand(local.shape).clone()  # (1, P, V)
        if isinstance(output, DTensor):
            return DTensor.from_local(values, output.device_mesh, output.placements, run_check=False)
        return values

    handle = head.register_forward_hook(replace)
    try:
        return _local(forward())[0].float()
    finally:
        handle.remove()


def _fit(seen: Float[Tensor, "P V"], name: str) -> LogitTransform:
    """The transform that makes `seen` of PROBES. Raises UserError when none does, or not for all entries alike."""
    probes = torch.tensor(PROBES, device=seen.device)
    values = seen[:, 0]
    scale = float((values[1] - values[2]) / (probes[1] - probes[2]))
    largest = float(values[-2])
    if abs(largest - scale * PROBES[-2]) <= TOLERANCE * abs(largest):
        transform = LogitTransform(_tidy(largest / PROBES[-2]))
    else:
        transform = LogitTransform(_tidy(scale), cap=_tidy(largest))
    cap_is_possible = transform.cap is None or transform.cap > 0
    if not (scale > 0 and cap_is_possible and torch.allclose(seen, apply(transform, probes)[:, None], rtol=2e-4)):
        raise UserError(
            f"{name}: it changes its logits after the LM head in a way that is neither a scale nor a soft cap nor "
            "both; such models are not supported"
        )
    return transform


def _tidy(number: float) -> float:
    """Without the rounding of fp32: 1.0 instead of 0.99999994."""
    short = float(f"{number:.6g}")
    return short if abs(short - number) <= 5e-7 * abs(number) else number


def _require_equal(logits: Tensor, expected: Tensor, name: str, what: str) -> None:
    same_width = logits.shape == expected.shape
    error = (logits - expected).abs().max() / expected.abs().max().clamp(min=1e-6) if same_width else torch.inf
    if not error < TOLERANCE:
        by = f"by {error:.0%} of the largest one" if same_width else f"{logits.shape[-1]} instead of "
        by += "" if same_width else f"{expected.shape[-1]} of them"
        raise UserError(f"{name}: its logits differ from {what} ({by}); such models are not supported")


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
