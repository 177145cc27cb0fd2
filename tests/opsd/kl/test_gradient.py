"""The gradient's place in the autograd graph: scaling, accumulation, frozen parts, and what is refused."""

import pytest
import torch

from opsd.kl import KLConfig, exact_kl
from opsd.kl.dense import DenseAccumulator
from tests.opsd.helpers.kl_cases import (
    NAMES,
    assert_matches,
    make_case,
    naive,
    naive_token_kl,
    near_equal_case,
    relative_error,
    require_grad,
    run,
)


def test_gradient_agrees_with_finite_differences():
    case = make_case(tokens=3, vocab=7, student_width=4)
    fixed = {name: case[name] for name in ("teacher_hidden", "teacher_head", "weights")}

    def loss(hidden, head):
        return exact_kl(hidden, head, **fixed, chunk_tokens=2).loss

    leaves = [case[name].requires_grad_() for name in ("student_hidden", "student_head")]
    assert torch.autograd.gradcheck(loss, leaves)


def test_incoming_gradient_scales_and_calls_accumulate():
    case = make_case()
    _, once = run(case)
    leaves = require_grad(case)
    loss = exact_kl(**leaves).loss
    (loss * -3.0 + 1.0).backward(retain_graph=True)
    for name, gradient in zip(("student_hidden", "student_head"), once, strict=True):
        torch.testing.assert_close(leaves[name].grad, -3.0 * gradient)
    (loss * 5.0).backward()
    for name, gradient in zip(("student_hidden", "student_head"), once, strict=True):
        torch.testing.assert_close(leaves[name].grad, 2.0 * gradient)


def test_loss_scale_keeps_fp16_gradients_from_vanishing():
    case = make_case(dtype=torch.float16)
    case["weights"] = torch.full((13,), 1e-7)
    leaves = require_grad(case)
    (exact_kl(**leaves).loss * 1e7).backward()
    case["weights"] = torch.ones(13)
    _, _, (expected, _), _ = naive(case)
    assert relative_error(leaves["student_hidden"].grad, expected) <= 3e-3


@pytest.mark.parametrize("frozen", ["student_head", "student_hidden"])
def test_one_side_frozen(frozen):
    trained = {"student_head": "student_hidden", "student_hidden": "student_head"}[frozen]
    case = make_case()
    _, both = run(case)
    leaves = require_grad(case, (trained,))
    exact_kl(**leaves).loss.backward()
    assert leaves[frozen].grad is None
    torch.testing.assert_close(leaves[trained].grad, both[("student_hidden", "student_head").index(trained)])


def test_no_gradient_work_without_a_graph(monkeypatch):
    def fail(*_):
        raise AssertionError("a gradient was formed")

    monkeypatch.setattr(DenseAccumulator, "add", fail)
    case = make_case()
    with torch.no_grad():
        assert not exact_kl(**require_grad(case)).loss.requires_grad
    out = exact_kl(**case)
    assert not out.loss.requires_grad
    assert relative_error(out.loss, naive(case)[0]) <= 1e-10


def test_tied_head_collects_the_gradient_of_both_uses():
    case = make_case()
    embed = case["student_head"].clone().requires_grad_()
    ids = torch.arange(13) % 5
    rest = {name: case[name] for name in ("teacher_hidden", "teacher_head", "weights")}
    exact_kl(torch.tanh(embed[ids]), embed, **rest).loss.backward()

    naive_embed = case["student_head"].clone().requires_grad_()
    teacher_logits = rest["teacher_hidden"] @ rest["teacher_head"].T
    token_kl = naive_token_kl(torch.tanh(naive_embed[ids]) @ naive_embed.T, teacher_logits, KLConfig())
    (rest["weights"] * token_kl).sum().backward()
    assert relative_error(embed.grad, naive_embed.grad) <= 1e-10


def test_teacher_receives_no_gradient():
    case = make_case()
    case |= {"student_bias": torch.ones(37).double(), "teacher_bias": torch.ones(37).double()}
    leaves = require_grad(case, NAMES)
    out = exact_kl(**leaves)
    out.loss.backward()
    assert all((leaves[name].grad is None) == name.startswith("teacher") for name in NAMES)
    assert not any(x.requires_grad for x in (out.token_kl, out.student_entropy, out.teacher_entropy))
    for name in NAMES[:3]:  # even where nothing else is trained
        leaves[name].requires_grad_(False)
    assert not exact_kl(**leaves).loss.requires_grad


def test_second_derivative_is_refused():
    leaves = require_grad(make_case())
    loss = exact_kl(**leaves).loss
    with pytest.raises(RuntimeError, match="exact_kl cannot be differentiated twice"):
        torch.autograd.grad(loss, leaves["student_hidden"], create_graph=True)


def test_autocast_does_not_affect_the_products():
    case = near_equal_case(1e-2, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_matches(case, tolerance=1e-3)
