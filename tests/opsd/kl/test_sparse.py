"""The gradient over flagged vocab entries, by torch: what it drops, what that costs, and when it switches off."""

import math

import pytest
import torch

import opsd.kl.gradients
from opsd.kl import KLConfig, chunk_gradient, exact_kl, sparse
from opsd.kl.sparse import SparseAccumulator
from opsd.kl.sparse_rows import SparseRowAccumulator
from tests.opsd.helpers.kl_cases import KINDS, make_case, naive, relative_error, run


def lm_like_case(tokens=48, vocab=2000, width=24, dtype=torch.float64):
    """A vocabulary as a language model uses it: each token's distribution has a few peaks, and the rows of an
    lm_head share a direction."""
    case = make_case(tokens, vocab, width, width, 4.0, dtype)
    rank = torch.arange(vocab, dtype=dtype) + 1
    common = torch.randn(width, generator=torch.Generator().manual_seed(3), dtype=dtype)
    for role in ("student", "teacher"):
        case[f"{role}_head"] += 0.5 * common
        case[f"{role}_bias"] = -3.0 * rank.log()
    return case


@pytest.mark.parametrize("kind", KINDS)
def test_value_is_over_all_entries_and_gradient_over_few(kind):
    case = lm_like_case()
    config = KLConfig(kind)
    whole, _ = run(case, config=config)
    out, gradients = run(case, config=config, grad_eps=1e-4, chunk_tokens=16)
    assert whole.dropped_vocab_fraction == 0.0
    assert 0.5 < out.dropped_vocab_fraction < 1.0
    torch.testing.assert_close(out.token_kl, whole.token_kl)
    for actual, reference in zip(gradients, naive(case, config)[2], strict=True):
        assert 0 < relative_error(actual, reference) <= 2 * sparse.MAX_DROPPED


def test_common_direction_of_the_lm_heads_rows_costs_nothing(monkeypatch):
    # Without subtracting the mean row, what is dropped adds up along it.
    case = lm_like_case()
    case["student_head"] += 20.0
    expected = naive(case)[2][0]
    _, (hidden, *_) = run(case, grad_eps=1e-4, chunk_tokens=16)
    monkeypatch.setattr(opsd.kl.gradients, "mean_row", lambda head, *_: torch.zeros_like(head[0]))
    _, (without, *_) = run(case, grad_eps=1e-4, chunk_tokens=16)
    assert relative_error(hidden, expected) < 0.1 * relative_error(without, expected)


@pytest.mark.parametrize("scale", [0.1, 0.5])
def test_filter_switches_itself_off_on_flat_distributions(scale):
    case = make_case(48, 2000, 16, 16, 1.0)
    case["student_head"] *= scale
    out, gradients = run(case, grad_eps=1e-4, chunk_tokens=16)
    assert out.dropped_vocab_fraction == 0.0
    for actual, reference in zip(gradients, naive(case)[2], strict=True):
        assert relative_error(actual, reference) <= 1e-10


def test_filter_switches_itself_off_where_the_small_entries_weigh_too_much():
    # At such a high threshold few entries are flagged, but the rest is no longer negligible.
    case = lm_like_case()
    out, gradients = run(case, grad_eps=0.3)
    assert out.dropped_vocab_fraction == 0.0
    assert relative_error(gradients[0], naive(case)[2][0]) <= 1e-10


def test_after_a_chunk_with_nothing_to_drop_some_chunks_are_not_flagged(monkeypatch):
    flagged = []
    flag = chunk_gradient.flag_entries
    counting = lambda gradient, *rest: flagged.append(0) or flag(gradient, *rest)  # noqa: E731
    monkeypatch.setattr(chunk_gradient, "flag_entries", counting)
    run(make_case(40, 500, 16, 16, 0.1), grad_eps=1e-4, chunk_tokens=2)
    assert len(flagged) == math.ceil(20 / (1 + sparse.DENSE_COOLDOWN))


def test_threshold_follows_the_gradient_not_the_loss_scale():
    case = lm_like_case()
    expected, _ = run(case, grad_eps=1e-4, chunk_tokens=16)
    case["weights"] *= 1e-6
    out, _ = run(case, grad_eps=1e-4, chunk_tokens=16)
    assert out.dropped_vocab_fraction == expected.dropped_vocab_fraction


def test_an_entry_is_kept_where_a_tokens_gradient_exceeds_eps_times_the_mean_norm():
    # The tokens' norms are 4 and nearly 0: their root mean square is 4 / sqrt(2) = 2.83.
    gradient = torch.tensor([[4.0, 0.27, 0.29], [0.0, 0.0, 0.0]], dtype=torch.float64)
    flags = chunk_gradient.flag_entries(gradient, 0.1, 1.0, lambda x: x)
    assert flags.tolist() == [True, False, True]


def uneven_case():
    """24 tokens over 6 000 vocab entries: most spread over 1 200 of them, those of the first chunks over three."""
    case = make_case(24, 6000, 16, 16, 1.0)
    bias = torch.full((6000,), -20.0, dtype=torch.float64)
    bias[:1200] = 0.0
    case |= {"student_bias": bias, "teacher_bias": bias + 0.1 * torch.arange(6000).cos()}
    for role in ("student", "teacher"):
        case[f"{role}_hidden"][:, 0] = 0.0
        case[f"{role}_hidden"][:4, 0] = 1.0
        case[f"{role}_head"][:3, 0] = 25.0
    return case


def test_chunk_with_more_entries_than_the_capacity_is_computed_again():
    case, retried = uneven_case(), []
    add = SparseAccumulator.add

    def recording(self, tokens, gradient, reservation=None, blocking=False):
        retried.append(blocking)
        add(self, tokens, gradient, reservation, blocking)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SparseAccumulator, "add", recording)
        out, gradients = run(case, grad_eps=1e-4, chunk_tokens=2)
    assert retried == 12 * [False] + [True]
    assert 0.7 < out.dropped_vocab_fraction < 0.99
    for actual, reference in zip(gradients, naive(case)[2], strict=True):
        assert relative_error(actual, reference) <= 2 * sparse.MAX_DROPPED


def test_dropped_fraction_is_none_without_a_gradient():
    with torch.no_grad():
        assert exact_kl(**lm_like_case(), grad_eps=1e-4).dropped_vocab_fraction is None


def test_lm_heads_gradient_is_stored_for_flagged_rows_only_until_backward():
    case = lm_like_case(tokens=16)
    case["student_head"].requires_grad_()
    loss = exact_kl(**case, grad_eps=1e-4, chunk_tokens=4).loss
    assert 0 < len(loss.grad_fn.gradients.weight.table) < 0.6 * len(case["student_head"])
    loss.backward()
    assert case["student_head"].grad.count_nonzero() > 0


@pytest.mark.parametrize("grad_eps", [-1e-4, math.nan, math.inf])
def test_bad_threshold_is_refused(grad_eps):
    with pytest.raises(ValueError, match=f"grad_eps is {grad_eps}, expected 0 .off. or a positive number"):
        run(make_case(), grad_eps=grad_eps)


def test_sparse_rows_grow_and_become_dense():
    generator = torch.Generator().manual_seed(0)
    expected = torch.zeros(100, 3, dtype=torch.float64)
    sums = SparseRowAccumulator(expected.shape, torch.float64, expected.device)
    for count in (0, 1, 5, 3, 20, 60, 2):
        entries = torch.randperm(100, generator=generator)[:count]
        part = torch.randn(count, 3, generator=generator, dtype=torch.float64)
        sums.reserve(int(sums.used) + count)
        sums.add(entries, part)
        expected[entries] += part
        torch.testing.assert_close(sums.scaled(torch.tensor(2.0), torch.float64), 2 * expected)
    assert sums.slots is None
    sums.to_dense()[7] += 1.0
    expected[7] += 1.0
    torch.testing.assert_close(sums.scaled(torch.tensor(1.0), torch.float32), expected.float())
