"""The fused kernels in Triton's interpreter, against the float64 reference of kl_cases.

kl/test_kernels.py runs this file in a separate process: TRITON_INTERPRET must be set before Triton is imported.
"""

import math
from unittest import mock

import pytest
import torch

from opsd.kl import KLConfig, LogitTransform, chunks, exact, exact_kl
from opsd.kl.kernels import block_sums, fused, single_pass
from opsd.kl.sparse import MAX_DROPPED
from opsd.kl.sparse_rows import SparseRowAccumulator
from tests.opsd.helpers.kl_cases import (
    KINDS,
    NAMES,
    assert_matches,
    make_case,
    naive,
    near_equal_case,
    relative_error,
    require_grad,
    run,
)

FUSED_KINDS = tuple(fused.KINDS)


@pytest.fixture(autouse=True)
def fused_on_cpu(monkeypatch):
    monkeypatch.setattr(exact, "fused_kernels_support", lambda device, *rest: fused.supports(*rest))
    monkeypatch.setattr(chunks, "free_memory", lambda device, enough: 2**30)
    monkeypatch.setattr(fused, "BLOCK", 32)
    monkeypatch.setattr(fused, "DENSE_BLOCK", 32)
    monkeypatch.setattr(single_pass, "BLOCK", 32)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("kind", FUSED_KINDS)
def test_every_kind_with_statistics_biases_and_chunks(kind, temperature):
    config = KLConfig(kind, mixed_weight=0.3, temperature=temperature)
    case = make_case(5, 120, scale=3.0, dtype=torch.float32)
    case |= {f"{role}_bias": torch.linspace(-1, 1, 120) for role in ("student", "teacher")}
    targets = torch.arange(5) * 23
    out, _ = assert_matches(case, config, 2e-5, vocab_size=110, chunk_tokens=3, targets=targets)
    student, teacher = naive(case, config, 110)[3]
    for name, logits in (("student", student), ("teacher", teacher)):
        log_probs = logits.log_softmax(-1)
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        torch.testing.assert_close(getattr(out, f"{name}_entropy"), entropy.float())
        expected = log_probs.gather(-1, targets[:, None])[:, 0].float()
        torch.testing.assert_close(getattr(out, f"{name}_logprob"), expected)
    assert torch.equal(out.top1_agreement, student.argmax(-1) == teacher.argmax(-1))


@pytest.mark.parametrize("grad_eps", [0.0, 1e-4])
@pytest.mark.parametrize("kind", FUSED_KINDS)
@pytest.mark.parametrize(
    "transforms",
    [(LogitTransform(0.25), LogitTransform(0.5)), (LogitTransform(1.5, cap=4.0), LogitTransform(cap=5.0))],
    ids=["scaled", "capped"],
)
def test_logits_that_are_scaled_or_soft_capped(kind, transforms, grad_eps):
    case = make_case(5, 120, scale=3.0, dtype=torch.float32)
    assert_matches(
        case,
        KLConfig(kind, mixed_weight=0.3, temperature=0.7),
        2e-5 if not grad_eps else 2 * MAX_DROPPED,
        chunk_tokens=3,
        targets=torch.arange(5) * 23,
        student_transform=transforms[0],
        teacher_transform=transforms[1],
        grad_eps=grad_eps,
    )


@pytest.mark.parametrize("grad_eps", [0.0, 1e-6])
@pytest.mark.parametrize("kind", FUSED_KINDS)
def test_clipped_tokens_have_no_gradient(kind, grad_eps):
    case = make_case(6, 120, scale=3.0, dtype=torch.float32)
    clip = float(naive(case, KLConfig(kind))[1].sort().values[2:4].mean())
    config = KLConfig(kind, clip=clip)
    out, gradients = assert_matches(case, config, 1e-3 if grad_eps else 2e-5, chunk_tokens=4, grad_eps=grad_eps)
    assert 0 < (out.token_kl > clip).sum() < 6
    assert not gradients[0][out.token_kl > clip].any()


@pytest.mark.parametrize("kind", FUSED_KINDS)
@pytest.mark.parametrize("relative", [1e-3, 1e-2])
def test_near_equal_distributions(kind, relative):
    case = near_equal_case(relative, torch.float32, tokens=3, vocab=150)
    out, _ = assert_matches(case, KLConfig(kind), tolerance=1e-3)
    assert (out.token_kl >= 0).all()


@pytest.mark.parametrize("kind", FUSED_KINDS)
def test_almost_identical_models_are_never_negative_beyond_rounding(kind):
    out, _ = run(near_equal_case(1e-6, torch.float32, tokens=3, vocab=150), config=KLConfig(kind))
    assert out.token_kl.min() >= -1e-11
    assert out.token_kl.max() <= 1e-9


@pytest.mark.parametrize("kind", FUSED_KINDS)
@pytest.mark.parametrize("scale", [10.0, 30.0])
def test_far_apart_distributions(kind, scale):
    assert_matches(make_case(3, 150, 32, 32, scale, torch.float32), KLConfig(kind), tolerance=1e-4)


def test_a_teacher_that_gives_the_students_argmax_no_probability():
    # exp of the log-ratio overflows fp32 here: the difference of the normalizers is used.
    case = make_case(3, 120, 8, 8, 1.0, torch.float32)
    case["student_bias"] = torch.zeros(120).index_fill_(0, torch.tensor([5]), 8.0)
    case["teacher_bias"] = torch.zeros(120).index_fill_(0, torch.tensor([100]), 300.0)
    for kind in FUSED_KINDS:
        assert_matches(case, KLConfig(kind), tolerance=1e-5)


@pytest.mark.parametrize("kind", FUSED_KINDS)
def test_gradient_in_bf16_is_the_gradient_rounded(kind):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 100, generator=generator) * 3 for _ in range(2))
    chunk = fused.compare(student, teacher, torch.rand(3, generator=generator), KLConfig(kind))
    rounded = chunk.dense(torch.empty(3, 100, dtype=torch.bfloat16))
    # The interpreter truncates.
    torch.testing.assert_close(rounded.float(), chunk.dense(), rtol=2**-7, atol=0)


def in_one_launch(*arguments):
    """single_pass.sums_and_gradient in the interpreter, where programs run one after another.

    A first run writes every block's sums; the second finds them, as programs that have waited for each other do.
    """
    real_zeros, blocks = torch.zeros, arguments[4].shape[1]

    def all_arrived(size, **options):
        return torch.cat([torch.full((size - 1,), blocks, **options), real_zeros(1, **options)])

    with mock.patch.object(torch, "zeros", all_arrived):
        for _ in range(2):
            launch(*arguments)


launch = single_pass.sums_and_gradient
WITHOUT_NORMS = block_sums.E2.value  # the fields from here on serve the flags alone


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("scale", [0.02, 20.0])
@pytest.mark.parametrize("vocab", [20, 32, 300])
def test_one_launch_gives_the_sums_and_gradient_of_two(vocab, scale, temperature):
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(3, vocab, generator=generator) * 5
    teacher = student + torch.randn(3, vocab, generator=generator) * scale
    weights = torch.rand(3, generator=generator)
    two = fused.compare(student, teacher, weights, KLConfig(temperature=temperature))
    expected = two.dense(torch.empty_like(student))
    actual, sums = torch.empty_like(student), torch.full_like(two.sums, torch.nan)
    in_one_launch(student, teacher, two.scale, temperature, sums, actual)
    assert relative_error(actual, expected) <= 1e-5
    torch.testing.assert_close(sums[..., :WITHOUT_NORMS], two.sums[..., :WITHOUT_NORMS])


@pytest.fixture
def launches(monkeypatch):
    """As on a GPU with room for 40 programs: the number of single-pass launches so far."""
    supports, made = single_pass.supports, []
    monkeypatch.setattr(single_pass, "_concurrent_programs", lambda device: 40)
    monkeypatch.setattr(single_pass, "supports", lambda *chunk: supports(*chunk[:2], torch.device("cuda")))
    monkeypatch.setattr(single_pass, "sums_and_gradient", lambda *chunk: made.append(in_one_launch(*chunk)))
    return made


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_switch_selects_two_launches_with_the_same_values_and_gradient(launches, temperature):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(4, 120, generator=generator) * 3 for _ in range(2))
    weights = torch.rand(4, generator=generator)

    def compare(allowed):
        config = KLConfig(temperature=temperature, single_pass=allowed)
        chunk = fused.compare(student, teacher, weights, config, out=torch.empty_like(student))
        return chunk.token_kl, chunk.dense(torch.empty_like(student)), len(launches)

    *one, number = compare(allowed=True)
    assert number == 1
    *two, number = compare(allowed=False)
    assert number == 1  # no further one
    for actual, expected in zip(one, two, strict=True):
        torch.testing.assert_close(actual, expected)


def test_a_token_whose_programs_do_not_fit_or_that_mps_limits_takes_two_launches(launches, monkeypatch):
    gpu = torch.device("cuda")
    assert single_pass.supports(KLConfig(), 20 * 32, gpu)
    assert not single_pass.supports(KLConfig(), 20 * 32 + 1, gpu)  # 21 programs are more than half of 40
    monkeypatch.setenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "25")
    assert not single_pass.supports(KLConfig(), 20 * 32, gpu)
    logits = torch.randn(2, 3, 100)
    fused.compare(*logits, torch.ones(3), KLConfig(), out=torch.empty(3, 100))
    assert not launches


def peaked_case(dtype=torch.float32):
    """Tokens that are nearly certain of a few vocab entries, as a language model's are; most entries are empty."""
    case = make_case(4, 300, 16, 16, 1.0, dtype)
    bias = torch.full((300,), -12.0, dtype=dtype).index_fill_(0, torch.tensor([3, 70, 71, 250]), 3.0)
    return case | {"student_bias": bias, "teacher_bias": bias + 0.1 * torch.arange(300).cos().to(dtype)}


@pytest.mark.parametrize("kind", FUSED_KINDS)
def test_entries_without_gradient_are_dropped_and_the_value_is_exact(kind):
    case, config = peaked_case(), KLConfig(kind)
    out, gradients = run(case, config=config, grad_eps=1e-3, chunk_tokens=2)
    whole, _ = run(case, config=config, chunk_tokens=2)
    assert 0.9 < out.dropped_vocab_fraction < 1.0
    assert whole.dropped_vocab_fraction == 0.0
    assert torch.equal(out.token_kl, whole.token_kl)
    for actual, reference in zip(gradients, naive(case, config)[2], strict=True):
        assert relative_error(actual, reference) <= 2 * MAX_DROPPED


def test_same_entries_as_the_torch_path():
    case = peaked_case()
    by_kernels = exact_kl(**require_grad(case, NAMES[:3]), grad_eps=1e-3, chunk_tokens=2)
    config = KLConfig("mixed", mixed_weight=0.0)  # the reverse KL by another name, for which torch flags
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "fused_kernels_support", lambda *_: False)
        by_torch = exact_kl(**require_grad(case, NAMES[:3]), grad_eps=1e-3, chunk_tokens=2, config=config)
    assert by_kernels.dropped_vocab_fraction == pytest.approx(by_torch.dropped_vocab_fraction, abs=1e-6)


def test_table_of_flagged_rows():
    generator = torch.Generator().manual_seed(0)
    by_kernels, by_torch = (
        SparseRowAccumulator(torch.Size((50, 70)), torch.float32, torch.device("cpu"), use_kernels)
        for use_kernels in (True, False)
    )
    for count in (0, 3, 10, 4):
        entries = torch.randperm(50, generator=generator)[:count]
        part = torch.randn(count, 70, generator=generator)
        for sums in (by_kernels, by_torch):
            sums.reserve(int(sums.used) + count)
            sums.add(entries, part)
        assert by_kernels.used == by_torch.used
        factor = torch.tensor(0.3)
        for dtype in (torch.float32, torch.bfloat16):
            expected = by_torch.scaled(factor, dtype)
            torch.testing.assert_close(by_kernels.scaled(factor, dtype), expected, rtol=2**-7, atol=0)
    torch.testing.assert_close(by_kernels.to_dense(), by_torch.to_dense())


def test_filter_switches_itself_off_where_nothing_can_be_dropped():
    case = make_case(4, 300, 16, 16, 0.1, torch.float32)
    out, gradients = run(case, grad_eps=1e-3)
    assert out.dropped_vocab_fraction == 0.0
    for actual, reference in zip(gradients, naive(case)[2], strict=True):
        assert relative_error(actual, reference) <= 1e-5


def test_a_token_that_is_not_finite_reaches_the_gradient():
    case = peaked_case()
    case["student_hidden"][1] = math.nan
    out, gradients = run(case, grad_eps=1e-3)
    assert out.loss.isnan() and gradients[1].isnan().any()


def test_kinds_without_a_kernel_use_the_torch_path():
    assert [kind for kind in KINDS if not fused.supports(KLConfig(kind), 100)] == ["jsd"]
    assert not fused.supports(KLConfig(topk=5), 100)
    assert fused.supports(KLConfig(topk=100), 100)
