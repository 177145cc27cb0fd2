"""What KLConfig selects: every divergence against the textbook, the statistics beside it, and what is refused."""

import math

import jaxtyping
import pytest
import torch

from opsd.kl import KLConfig, exact_kl
from tests.opsd.helpers.kl_cases import KINDS, assert_matches, make_case, naive, near_equal_case


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.5])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "topk",
    [
        {},
        {"topk": 5},
        {"topk": 5, "topk_support": "student"},
        {"topk": 5, "topk_tail": False},
        {"topk": 5, "topk_support": "student", "topk_tail": False},
        {"topk": 1},
        {"topk": 36},
    ],
    ids=lambda topk: "-".join(str(x) for x in topk.values()) or "exact",
)
def test_every_divergence_matches_the_reference_in_float64(kind, temperature, topk):
    config = KLConfig(kind, mixed_weight=0.3, jsd_beta=0.2, temperature=temperature, **topk)
    assert_matches(make_case(scale=3.0), config, chunk_tokens=5)


def test_default_is_the_reverse_kl_of_student_to_teacher_by_hand():
    # One row, two tokens, hidden = 1: p = (1/2, 1/2), q = (1/4, 3/4).
    one = torch.ones(1, 1)
    out = exact_kl(one, torch.zeros(2, 1), one, torch.tensor([[0.0], [math.log(3.0)]]), torch.ones(1))
    assert out.loss.item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), rel=1e-6)


def test_topk_of_the_whole_vocabulary_is_exact():
    case = make_case()
    expected = exact_kl(**case)
    for tail in (True, False):
        torch.testing.assert_close(exact_kl(**case, config=KLConfig(topk=50, topk_tail=tail)).loss, expected.loss)


@pytest.mark.parametrize(
    "config", [KLConfig(), KLConfig("jsd", temperature=3.0), KLConfig(topk=4)], ids=lambda o: o.kind
)
def test_statistics_are_of_the_full_vocabulary_at_temperature_one(config):
    case = make_case(scale=3.0)
    targets = (torch.arange(13) * 5 % 37).int()
    out = exact_kl(**case, config=config, targets=targets, chunk_tokens=5)
    student, teacher = naive(case)[3]
    for name, logits in (("student", student), ("teacher", teacher)):
        probs = logits.softmax(-1)
        expected = -(probs * probs.log()).sum(-1).float()
        torch.testing.assert_close(getattr(out, f"{name}_entropy"), expected)
        expected = probs.log()[torch.arange(13), targets.long()].float()
        torch.testing.assert_close(getattr(out, f"{name}_logprob"), expected)
    assert out.top1_agreement.dtype == torch.bool
    assert torch.equal(out.top1_agreement, student.argmax(-1) == teacher.argmax(-1))


def test_agreement_is_not_constant():
    case = near_equal_case(0.1, torch.float32)
    student, teacher = naive(case)[3]
    expected = student.argmax(-1) == teacher.argmax(-1)
    assert expected.any() and not expected.all()
    assert torch.equal(exact_kl(**case).top1_agreement, expected)


def test_statistics_not_requested_are_none():
    case = make_case()
    targets = torch.zeros(13, dtype=torch.long)
    assert exact_kl(**case).student_logprob is None and exact_kl(**case).teacher_logprob is None
    out = exact_kl(**case, targets=targets, with_stats=False)
    names = ("student_entropy", "teacher_entropy", "student_logprob", "teacher_logprob", "top1_agreement")
    assert all(getattr(out, name) is None for name in names)
    assert out.token_kl.dtype == torch.float32
    torch.testing.assert_close(out.token_kl, exact_kl(**case).token_kl)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"kind": "backward"}, "kind is 'backward', expected one of reverse, forward, mixed, jsd"),
        ({"mixed_weight": 1.5}, "mixed_weight is 1.5, expected a number from 0 to 1"),
        ({"mixed_weight": math.nan}, "mixed_weight is nan, expected"),
        ({"jsd_beta": 0.0}, "jsd_beta is 0.0, expected a number strictly between 0 and 1"),
        ({"jsd_beta": 1.0}, "jsd_beta is 1.0, expected a number strictly between 0 and 1"),
        ({"temperature": 0.0}, "temperature is 0.0, expected a positive finite number"),
        ({"temperature": math.inf}, "temperature is inf, expected a positive finite number"),
        ({"topk": -1}, "topk is -1, expected 0 (whole vocabulary) or a positive integer"),
        ({"topk": 2.5}, "topk is 2.5, expected 0"),
        ({"topk_support": "both"}, "topk_support is 'both', expected one of teacher, student"),
        ({"topk": 1, "topk_tail": False}, "topk is 1 with topk_tail=False, expected topk >= 2"),
    ],
    ids=str,
)
def test_bad_options_are_refused(bad, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse them first
    with pytest.raises(ValueError) as error:
        KLConfig(**bad)
    assert str(error.value).startswith(message)
