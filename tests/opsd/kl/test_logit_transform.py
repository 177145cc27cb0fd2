"""Models that scale or soft-cap their logits: values, statistics and gradients against the float64 reference."""

import pytest
import torch

from opsd.kl import KLConfig, LogitTransform
from opsd.kl.sparse import MAX_DROPPED
from tests.opsd.helpers.kl_cases import KINDS, assert_matches, make_case, naive, relative_error, run

SCALED, CAPPED, BOTH = LogitTransform(0.125), LogitTransform(cap=3.0), LogitTransform(2.5, cap=8.0)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [(SCALED, SCALED), (CAPPED, CAPPED), (BOTH, LogitTransform()), (LogitTransform(), BOTH), (SCALED, CAPPED)],
    ids=["scaled", "capped", "student alone", "teacher alone", "different"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_with_biases_and_chunks(kind, student, teacher):
    case = make_case(vocab=40, scale=3.0)
    case |= {f"{role}_bias": torch.linspace(-1, 1, 40).double() for role in ("student", "teacher")}
    assert_matches(
        case,
        KLConfig(kind, temperature=0.7),
        vocab_size=37,
        chunk_tokens=5,
        student_transform=student,
        teacher_transform=teacher,
    )


@pytest.mark.parametrize("tail", [True, False])
def test_top_k(tail):
    case = make_case(scale=3.0)
    config = KLConfig(topk=5, topk_tail=tail)
    assert_matches(case, config, student_transform=BOTH, teacher_transform=CAPPED)


def test_statistics_are_those_of_the_transformed_logits():
    case, targets = make_case(scale=3.0), torch.arange(13) * 2
    out, _ = run(case, targets=targets, student_transform=BOTH, teacher_transform=CAPPED)
    logits = naive(case, transforms=(BOTH, CAPPED))[3]
    for name, values in zip(("student", "teacher"), logits, strict=True):
        log_probs = values.log_softmax(-1)
        torch.testing.assert_close(getattr(out, f"{name}_entropy"), -(log_probs.exp() * log_probs).sum(-1).float())
        torch.testing.assert_close(
            getattr(out, f"{name}_logprob"), log_probs.gather(-1, targets[:, None])[:, 0].float()
        )


def test_a_saturated_cap_passes_no_gradient_and_stays_finite():
    case = make_case(scale=300.0, dtype=torch.float32)
    out, (hidden, head) = run(case, student_transform=CAPPED, teacher_transform=CAPPED)
    reference = naive(case, transforms=(CAPPED, CAPPED))
    assert out.loss.isfinite() and hidden.isfinite().all() and head.isfinite().all()
    assert relative_error(out.token_kl, reference[1]) <= 1e-4
    assert relative_error(hidden, reference[2][0]) <= 1e-3


@pytest.mark.parametrize(
    "transform", [LogitTransform(0.5), LogitTransform(1.5, cap=30.0)], ids=["scaled", "capped"]
)
def test_dropping_entries_without_gradient(transform):
    """With a cap, a token's gradient does not sum to zero: subtracting the mean row would be an error."""
    case = make_case(4, 300, 16, 16, 1.0)
    case["student_head"] += 0.5  # rows with a common direction
    bias = torch.full((300,), -12.0).index_fill_(0, torch.tensor([3, 70, 71, 250]), 20.0).double()
    case |= {"student_bias": bias, "teacher_bias": bias + 0.1 * torch.arange(300).cos()}
    transforms = {"student_transform": transform, "teacher_transform": transform}
    out, gradients = run(case, grad_eps=1e-3, chunk_tokens=2, **transforms)
    assert out.dropped_vocab_fraction > 0.5
    for actual, reference in zip(gradients, naive(case, transforms=(transform, transform))[2], strict=True):
        assert relative_error(actual, reference) <= 2 * MAX_DROPPED
