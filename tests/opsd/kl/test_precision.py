"""Accuracy against the float64 reference: distributions far apart, nearly equal and identical, in all dtypes."""

import pytest
import torch

from opsd.kl import KLConfig
from tests.opsd.helpers.kl_cases import (
    KINDS,
    NAMES,
    assert_matches,
    make_case,
    naive,
    near_equal_case,
    relative_error,
    run,
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [3.0, 30.0])
@pytest.mark.parametrize("topk", [0, 64])
def test_far_apart_distributions_in_fp32(kind, topk, scale):
    # At scale 30 probabilities underflow fp32, their ratios overflow it, and each row is nearly certain.
    case = make_case(24, 4000, 64, 64, scale, torch.float32)
    assert_matches(case, KLConfig(kind, topk=topk), tolerance=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("topk", [0, 64])
@pytest.mark.parametrize("relative", [1e-3, 3e-3, 1e-2])
def test_near_equal_distributions_in_fp32(kind, topk, relative):
    case = near_equal_case(relative, torch.float32)
    out, _ = assert_matches(case, KLConfig(kind, topk=topk), tolerance=1e-3)
    assert (out.token_kl >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("relative", [3e-3, 1e-2])
def test_near_equal_distributions_with_bf16_inputs(kind, relative):
    # Gradients come back rounded to bf16 (2^-9 at most, relative), the value does not.
    case = near_equal_case(relative, torch.bfloat16)
    out, gradients = run(case, config=KLConfig(kind))
    loss, token_kl, expected, _ = naive(case, KLConfig(kind))
    assert relative_error(out.loss, loss) <= 1e-3
    assert relative_error(out.token_kl, token_kl) <= 1e-3
    for actual, reference in zip(gradients, expected, strict=True):
        assert actual.dtype == torch.bfloat16
        assert relative_error(actual, reference) <= 3e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_far_apart_distributions_with_half_inputs(kind, dtype):
    case = make_case(24, 4000, 64, 64, 3.0, dtype)
    out, gradients = run(case, config=KLConfig(kind))
    loss, _, expected, _ = naive(case, KLConfig(kind))
    assert relative_error(out.loss, loss) <= 1e-5
    for actual, reference in zip(gradients, expected, strict=True):
        assert actual.dtype == dtype
        assert relative_error(actual, reference) <= 3e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [3.0, 30.0])
def test_identical_models_have_no_divergence(kind, scale):
    case = make_case(24, 4000, 64, 64, scale, torch.float32)
    case |= {"teacher_hidden": case["student_hidden"], "teacher_head": case["student_head"]}
    out, gradients = run(case, config=KLConfig(kind))
    assert out.token_kl.abs().max() <= 1e-7
    assert all(x.abs().max() <= 1e-6 for x in gradients)
    assert out.top1_agreement.all()


@pytest.mark.parametrize("kind", KINDS)
def test_almost_identical_models_are_never_negative_beyond_rounding(kind):
    case = near_equal_case(1e-6, torch.float32)
    out, _ = run(case, config=KLConfig(kind))
    assert out.token_kl.min() >= -1e-12
    assert out.token_kl.max() <= 1e-9


@pytest.mark.parametrize(
    "dtypes",
    [
        {"teacher_hidden": torch.bfloat16, "teacher_head": torch.bfloat16},
        {"student_hidden": torch.bfloat16},
        {"student_head": torch.bfloat16, "teacher_head": torch.float16},
    ],
    ids=["bf16 teacher", "bf16 hidden", "three dtypes"],
)
def test_mixed_dtypes(dtypes):
    case = {name: x.to(dtypes.get(name, torch.float32)) for name, x in make_case(scale=3.0).items()}
    out, gradients = run(case)
    loss, _, expected, _ = naive(case)
    assert out.loss.dtype == out.token_kl.dtype == torch.float32
    assert relative_error(out.loss, loss) <= 1e-5
    for name, actual, reference in zip(NAMES, gradients, expected, strict=False):
        assert actual.dtype == case[name].dtype
        assert relative_error(actual, reference) <= (1e-5 if actual.dtype == torch.float32 else 3e-3)


def test_head_gradient_is_accumulated_in_fp32():
    # 512 equal tokens, one at a time: a bf16 sum would stop growing at 256 times its first term.
    case = make_case(tokens=1, dtype=torch.bfloat16)
    for name in ("student_hidden", "teacher_hidden", "weights"):
        case[name] = torch.cat([case[name]] * 512)
    _, (_, head_gradient) = run(case, chunk_tokens=1)
    assert relative_error(head_gradient, naive(case)[2][1]) <= 3e-3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_cuda_matches_the_reference(kind, dtype):
    case = {name: x.cuda() for name, x in near_equal_case(1e-2, dtype).items()}
    targets = torch.zeros(24, dtype=torch.long, device="cuda")
    out, gradients = run(case, config=KLConfig(kind), targets=targets, chunk_tokens=7)
    loss, token_kl, expected, _ = naive(case, KLConfig(kind))
    assert relative_error(out.loss, loss) <= 1e-3
    assert relative_error(out.token_kl, token_kl) <= 1e-3
    for actual, reference in zip(gradients, expected, strict=True):
        assert actual.dtype == dtype
        assert relative_error(actual, reference) <= 5e-3
