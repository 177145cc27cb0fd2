"""The weighted negative log-likelihood against log_softmax in float64."""

import pytest
import torch

from opsd.kl import IDENTITY, LogitTransform
from opsd.kl.logit_transform import apply
from opsd.kl.nll import weighted_nll
from tests.opsd.helpers.kl_cases import make_case, relative_error


def inputs(dtype, bias):
    case = make_case(scale=3.0, dtype=dtype)
    tensors = [case["student_hidden"], case["student_head"]]
    tensors += [torch.linspace(-1, 1, 37).to(dtype)] if bias else []
    weights = torch.linspace(-1, 2, 13)  # an advantage may be negative
    return [x.requires_grad_() for x in tensors], torch.arange(13) * 5 % 30, weights


def reference(tensors, targets, weights, vocab_size, transform=IDENTITY):
    leaves = [x.detach().double().requires_grad_() for x in tensors]
    logits = leaves[0] @ leaves[1].T + (leaves[2] if len(leaves) > 2 else 0)
    log_probs = apply(transform, logits)[:, :vocab_size].log_softmax(-1)
    loss = -(weights.double() * log_probs.gather(-1, targets[:, None])[:, 0]).sum()
    return loss, torch.autograd.grad(loss, leaves)


@pytest.mark.parametrize("transform", [IDENTITY, LogitTransform(0.3), LogitTransform(1.5, cap=4.0)], ids=str)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk_tokens", [None, 1, 5])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_value_and_gradients(dtype, tolerance, chunk_tokens, bias, transform):
    tensors, targets, weights = inputs(dtype, bias)
    expected, gradients = reference(tensors, targets, weights, 30, transform)
    more = {"transform": transform} | ({"bias": tensors[2]} if bias else {})
    loss = weighted_nll(*tensors[:2], targets, weights, vocab_size=30, chunk_tokens=chunk_tokens, **more)
    (-3.0 * loss).backward()
    assert relative_error(loss.detach(), expected.detach()) <= tolerance
    for x, gradient in zip(tensors, gradients, strict=True):
        assert relative_error(x.grad, -3.0 * gradient) <= tolerance


def test_a_frozen_head_gets_no_gradient():
    (hidden, head), targets, weights = inputs(torch.float64, False)
    head.requires_grad_(False)
    weighted_nll(hidden, head, targets, weights).backward()
    assert hidden.grad.any() and head.grad is None
