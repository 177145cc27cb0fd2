"""The gradient over flagged columns, by torch: what it leaves out, what that costs, and when it stops."""

import math

import pytest
import torch

from opsd.kl import KLConfig
from opsd.kl import exact as kl
from opsd.kl import gradients as kl_gradients
from opsd.kl import sparse as kl_columns
from opsd.kl.sparse import ColumnSums
from tests.opsd.kl.test_exact_kl import KINDS, make_case, naive, relative_error, run


def lm_like_case(tokens=48, vocab=2000, width=24, dtype=torch.float64):
    """A vocabulary as a language model uses it: each row believes in a few tokens, and all rows of a head have
    a direction in common."""
    case = make_case(tokens, vocab, width, width, 4.0, dtype)
    rank = torch.arange(vocab, dtype=dtype) + 1
    common = torch.randn(width, generator=torch.Generator().manual_seed(3), dtype=dtype)
    for role in ("student", "teacher"):
        case[f"{role}_head"] += 0.5 * common
        case[f"{role}_bias"] = -3.0 * rank.log()
    return case


@pytest.mark.parametrize("kind", KINDS)
def test_value_is_of_all_columns_and_gradient_of_few(kind):
    case = lm_like_case()
    options = KLConfig(kind)
    whole, _ = run(case, options=options)
    out, gradients = run(case, options=options, grad_eps=1e-4, chunk_tokens=16)
    assert whole.dropped_vocab_fraction == 0.0
    assert 0.5 < out.dropped_vocab_fraction < 1.0
    torch.testing.assert_close(out.token_kl, whole.token_kl)
    for got, want in zip(gradients, naive(case, options)[2], strict=True):
        assert 0 < relative_error(got, want) <= 2 * kl_columns.MAX_DROPPED


def test_common_direction_of_the_heads_rows_costs_nothing(monkeypatch):
    # Without the mean row, what is dropped adds up along it.
    case = lm_like_case()
    case["student_head"] += 20.0
    wanted = naive(case)[2][0]
    _, (hidden, *_) = run(case, grad_eps=1e-4, chunk_tokens=16)
    monkeypatch.setattr(kl_gradients, "mean_row", lambda head, *_: torch.zeros_like(head[0]))
    _, (without, *_) = run(case, grad_eps=1e-4, chunk_tokens=16)
    assert relative_error(hidden, wanted) < 0.1 * relative_error(without, wanted)


@pytest.mark.parametrize("scale", [0.1, 0.5])
def test_filter_switches_itself_off_on_flat_distributions(scale):
    case = make_case(48, 2000, 16, 16, 1.0)
    case["student_head"] *= scale
    out, gradients = run(case, grad_eps=1e-4, chunk_tokens=16)
    assert out.dropped_vocab_fraction == 0.0
    for got, want in zip(gradients, naive(case)[2], strict=True):
        assert relative_error(got, want) <= 1e-10


def test_filter_switches_itself_off_where_the_small_entries_weigh_too_much():
    # At so high a threshold few columns pass, but the rest is no longer negligible.
    case = lm_like_case()
    out, gradients = run(case, grad_eps=0.3)
    assert out.dropped_vocab_fraction == 0.0
    assert relative_error(gradients[0], naive(case)[2][0]) <= 1e-10


def test_after_a_chunk_without_anything_to_drop_some_chunks_do_not_look(monkeypatch):
    looked = []
    flag = kl_gradients.flag_columns
    looking = lambda gradient, *rest: looked.append(0) or flag(gradient, *rest)  # noqa: E731
    monkeypatch.setattr(kl_gradients, "flag_columns", looking)
    run(make_case(40, 500, 16, 16, 0.1), grad_eps=1e-4, chunk_tokens=2)
    assert len(looked) == math.ceil(20 / (1 + kl_columns.PATIENCE))


def test_threshold_follows_the_gradient_not_the_loss_scale():
    case = lm_like_case()
    wanted, _ = run(case, grad_eps=1e-4, chunk_tokens=16)
    case["weights"] *= 1e-6
    out, _ = run(case, grad_eps=1e-4, chunk_tokens=16)
    assert out.dropped_vocab_fraction == wanted.dropped_vocab_fraction


def uneven_case():
    """24 rows over 6 000 tokens: most spread over 1 200 of them, those of the first chunks over three."""
    case = make_case(24, 6000, 16, 16, 1.0)
    bias = torch.full((6000,), -20.0, dtype=torch.float64)
    bias[:1200] = 0.0
    case |= {"student_bias": bias, "teacher_bias": bias + 0.1 * torch.arange(6000).cos()}
    for role in ("student", "teacher"):
        case[f"{role}_hidden"][:, 0] = 0.0
        case[f"{role}_hidden"][:4, 0] = 1.0
        case[f"{role}_head"][:3, 0] = 25.0
    return case


def test_chunk_with_more_columns_than_there_was_room_for_is_computed_again():
    case, again = uneven_case(), []
    add = kl_gradients.Gradients.add
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            kl_gradients.Gradients,
            "add",
            lambda self, rows, gradient, at_once=False: (
                again.append(at_once) or add(self, rows, gradient, at_once)
            ),
        )
        out, gradients = run(case, grad_eps=1e-4, chunk_tokens=2)
    assert again == 12 * [False] + [True]
    assert 0.7 < out.dropped_vocab_fraction < 0.99
    for got, want in zip(gradients, naive(case)[2], strict=True):
        assert relative_error(got, want) <= 2 * kl_columns.MAX_DROPPED


def test_dropped_columns_is_none_without_a_gradient():
    with torch.no_grad():
        assert kl.exact_kl(**lm_like_case(), grad_eps=1e-4).dropped_vocab_fraction is None


def test_heads_gradient_is_held_for_the_flagged_rows_alone_until_backward():
    case = lm_like_case(tokens=16)
    case["student_head"].requires_grad_()
    loss = kl.exact_kl(**case, grad_eps=1e-4, chunk_tokens=4).loss
    assert 0 < len(loss.grad_fn.gradients.weight.table) < 0.6 * len(case["student_head"])
    loss.backward()
    assert case["student_head"].grad.count_nonzero() > 0


@pytest.mark.parametrize("grad_eps", [-1e-4, math.nan, math.inf])
def test_bad_threshold_is_refused(grad_eps):
    with pytest.raises(ValueError, match=f"grad_eps is {grad_eps}, expected 0 .off. or a positive number"):
        run(make_case(), grad_eps=grad_eps)


def test_column_sums_grow_and_become_whole():
    generator = torch.Generator().manual_seed(0)
    wanted = torch.zeros(100, 3, dtype=torch.float64)
    sums = ColumnSums(wanted.shape, torch.float64, wanted.device)
    for count in (0, 1, 5, 3, 20, 60, 2):
        columns = torch.randperm(100, generator=generator)[:count]
        part = torch.randn(count, 3, generator=generator, dtype=torch.float64)
        sums.make_room(int(sums.used) + count)
        sums.add(columns, part)
        wanted[columns] += part
        torch.testing.assert_close(sums.scaled(torch.tensor(2.0), torch.float64), 2 * wanted)
    assert sums.place is None
    sums.everything()[7] += 1.0
    wanted[7] += 1.0
    torch.testing.assert_close(sums.scaled(torch.tensor(1.0), torch.float32), wanted.float())
