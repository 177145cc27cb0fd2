"""The exact KL's CUDA path against float64, and its memory."""

import math
import os

import pytest
import torch

from opsd.kl import KLConfig, LogitTransform, dense, exact_kl
from opsd.kl.kernels import fused
from tests.opsd.helpers.kl_cases import KINDS, make_case, naive, near_equal_case, relative_error, run

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

ACCURACY = 5e-3


def on_gpu(case):
    return {name: x.cuda() for name, x in case.items()}


def lm_like_case(tokens, vocab, width, dtype=torch.bfloat16):
    """Each token's distribution has a few peaks, over a vocabulary used as unevenly as a language model's."""
    generator = torch.Generator("cuda").manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, device="cuda").to(dtype)

    bias = -3.0 * (torch.arange(vocab, device="cuda") + 1.0).log()
    case = {"weights": torch.full((tokens,), 1 / tokens, device="cuda")}
    for role in ("student", "teacher"):
        case[f"{role}_hidden"] = normal(tokens, width)
        case[f"{role}_head"] = normal(vocab, width) * (3 / math.sqrt(width))
        case[f"{role}_bias"] = bias.to(dtype)
    return case


def assert_accurate(case, config=KLConfig(), **arguments):  # noqa: B008 - frozen
    out, gradients = run(case, config=config, **arguments)
    loss, token_kl, expected, _ = naive(case, config)
    assert relative_error(out.loss, loss) <= ACCURACY
    assert relative_error(out.token_kl, token_kl) <= ACCURACY
    assert out.token_kl.min() >= -1e-7
    for actual, reference in zip(gradients, expected, strict=True):
        assert relative_error(actual, reference) <= ACCURACY
    return out


# 50 001 is not a multiple of the kernels' blocks.
@pytest.mark.parametrize("vocab", [50_001, 151_936])
@pytest.mark.parametrize("kind", KINDS)
def test_near_equal_distributions_of_bf16_models(kind, vocab):
    assert_accurate(on_gpu(near_equal_case(1e-2, torch.bfloat16, 70, vocab, 256)), KLConfig(kind))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [3.0, 30.0])
def test_far_apart_distributions(kind, dtype, scale):
    case = make_case(70, 50_001, 256, 256, scale, dtype)
    config = KLConfig(kind, temperature=1.3)
    # At 30 all tokens are nearly certain. jsd is then at its upper limit, and its gradient, at most 1e-7 of the
    # weights, is the rounding error of the scores it is computed from; the others' are rounded by bf16 and fp16.
    if scale == 3.0 or (dtype == torch.float32 and kind != "jsd"):
        assert_accurate(on_gpu(case), config, chunk_tokens=32)
    else:
        out, _ = run(on_gpu(case), config=config)
        assert relative_error(out.token_kl, naive(on_gpu(case), config)[1]) <= ACCURACY


def test_statistics_match_the_reference():
    case = on_gpu(make_case(70, 50_001, 64, 64, 3.0, torch.bfloat16))
    targets = torch.arange(70, device="cuda") * 700
    out = exact_kl(**case, targets=targets)
    student, teacher = naive({name: x.requires_grad_(name != "weights") for name, x in case.items()})[3]
    for name, logits in (("student", student), ("teacher", teacher)):
        log_probs = logits.log_softmax(-1)
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        torch.testing.assert_close(getattr(out, f"{name}_entropy"), entropy.float(), rtol=1e-4, atol=1e-4)
        expected = log_probs.gather(-1, targets[:, None])[:, 0].float()
        torch.testing.assert_close(getattr(out, f"{name}_logprob"), expected, rtol=1e-4, atol=1e-4)
    assert (out.top1_agreement == (student.argmax(-1) == teacher.argmax(-1))).float().mean() > 0.98


@pytest.mark.parametrize("config", [KLConfig(), KLConfig("forward"), KLConfig(topk=64)], ids=lambda o: o.kind)
def test_flagged_entries(config):
    case = lm_like_case(300, 50_001, 256)
    out = assert_accurate(case, config, grad_eps=2e-4, chunk_tokens=128)
    assert 0.6 < out.dropped_vocab_fraction < 1.0


def test_filter_switches_itself_off_on_flat_distributions():
    case = on_gpu(make_case(300, 50_001, 64, 64, 0.5, torch.bfloat16))
    assert assert_accurate(case, grad_eps=2e-4, chunk_tokens=128).dropped_vocab_fraction == 0.0


@pytest.mark.parametrize("whole_batch_tokens", [100, 200])
def test_dense_gradients_are_buffered_over_chunks(monkeypatch, whole_batch_tokens):
    monkeypatch.setattr(dense, "BUFFER_TOKENS", 100)
    monkeypatch.setattr(dense, "WHOLE_BATCH_TOKENS", whole_batch_tokens)
    case = on_gpu(near_equal_case(1e-2, torch.bfloat16, 170, 50_001, 64))
    assert_accurate(case, chunk_tokens=40)
    case["weights"][50:53] = 0.0  # the others are not consecutive
    out, gradients = run(case, chunk_tokens=40)
    assert not out.token_kl[50:53].any()
    for actual, reference in zip(gradients, naive(case)[2], strict=True):
        assert relative_error(actual, reference) <= ACCURACY


@pytest.mark.parametrize("temperature", [1.0, 1.3])
@pytest.mark.parametrize("tokens, vocab", [(1, 64), (3, 4096), (5, 4097), (70, 50_001), (1024, 151_936)])
def test_one_launch_gives_the_value_and_gradient_of_two_and_always_the_same(tokens, vocab, temperature):
    generator = torch.Generator("cuda").manual_seed(0)
    student, noise = torch.randn(2, tokens, vocab, generator=generator, device="cuda") * 3
    teacher, weights = student + 0.05 * noise, torch.rand(tokens, device="cuda")
    student[tokens // 2] = math.nan  # does not block the other programs
    config = KLConfig(temperature=temperature)
    two = fused.compare(student, teacher, weights, config)
    expected = two.dense(out=torch.empty_like(student, dtype=torch.bfloat16))
    runs = []
    for _ in range(3):
        out = torch.full_like(expected, 7.0)
        one = fused.compare(student, teacher, weights, config, out=out)
        assert one.dense(out=out) is out
        torch.testing.assert_close(one.token_kl, two.token_kl, rtol=1e-6, atol=1e-9, equal_nan=True)
        assert out[tokens // 2].isnan().all()
        assert relative_error(out.nan_to_num(), expected.nan_to_num()) <= 1e-4 or tokens == 1
        runs.append(out.nan_to_num())
    assert torch.equal(runs[0], runs[1]) and torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("tokens", [1, 2, 70_000])
def test_any_number_of_tokens(tokens):
    case = on_gpu(make_case(tokens, 64, 16, 16, 3.0, torch.bfloat16))
    assert_accurate(case)
    assert_accurate(case, grad_eps=2e-4)


def test_zero_weight_tokens_contribute_nothing_even_when_not_finite():
    case = lm_like_case(64, 5000, 64)
    case["weights"][10:20] = 0.0
    expected, expected_gradients = run(case, grad_eps=2e-4)
    case["student_hidden"][10:15] = math.nan
    case["teacher_hidden"][15:20] = math.inf
    out, gradients = run(case, grad_eps=2e-4)
    assert torch.equal(out.loss, expected.loss)
    assert all(torch.equal(x, y) for x, y in zip(gradients, expected_gradients, strict=True))


def peak_gib(case, **arguments):
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run(case, **arguments)
    return (torch.cuda.max_memory_allocated() - before) / 2**30


def test_memory_is_flat_in_the_number_of_tokens():
    # At H = 2560. Not counted: the copies of the inputs that `run` makes, and the hidden states' gradient.
    peaks = {}
    for tokens in (2048, 16384):
        case = lm_like_case(tokens, 151_936, 2560)
        own = 2 * 2 * tokens * 2560 + 3 * 2 * tokens * 2560 + 2 * 2 * 151_936 * 2560
        peaks[tokens] = peak_gib(case, grad_eps=2e-4) - own / 2**30
    assert peaks[16384] <= 1.5
    assert peaks[16384] - peaks[2048] <= 0.2


@pytest.mark.skipif("KL_TEST_MODEL" not in os.environ, reason="KL_TEST_MODEL is not set")
def test_flagged_entries_on_a_models_hidden_states(monkeypatch):
    monkeypatch.syspath_prepend("self-distillation/benchmarks")
    from kl_cases import model_case

    case = model_case(os.environ["KL_TEST_MODEL"], 1024)
    names = ("student_hidden", "student_head", "teacher_hidden", "teacher_head", "weights")
    out = assert_accurate({name: getattr(case, name) for name in names}, grad_eps=2e-4)
    assert out.dropped_vocab_fraction > 0.8


def test_unsupported_divergences_are_not_claimed():
    assert not fused.supports(KLConfig("jsd"), 100) and not fused.supports(KLConfig(topk=5), 100)


@pytest.mark.parametrize("kind", KINDS)
def test_clipped_tokens(kind):
    case = on_gpu(make_case(70, 50_001, 256, 256, 3.0, torch.bfloat16))
    values = naive(case, KLConfig(kind))[1].sort().values
    config = KLConfig(kind, clip=float(values[34:36].mean()))
    out, (hidden, _) = run(case, config=config)
    loss, _, expected, _ = naive(case, config)
    assert relative_error(out.loss, loss) <= ACCURACY
    assert relative_error(hidden, expected[0]) <= 2 * ACCURACY  # a token near the limit may fall on either side
    assert not hidden[out.token_kl > config.clip].any()


@pytest.mark.parametrize("transform", [LogitTransform(0.125), LogitTransform(cap=30.0)], ids=["scaled", "capped"])
def test_logits_that_the_model_scales_or_caps(transform):
    case = on_gpu(make_case(70, 50_001, 256, 256, 10.0, torch.bfloat16))
    out, gradients = run(case, student_transform=transform, teacher_transform=transform)
    loss, token_kl, expected, _ = naive(case, transforms=(transform, transform))
    assert relative_error(out.loss, loss) <= ACCURACY
    assert relative_error(out.token_kl, token_kl) <= ACCURACY
    for actual, reference in zip(gradients, expected, strict=True):
        assert relative_error(actual, reference) <= ACCURACY
