"""The tensors that exact_kl accepts (lm_heads of different widths, biases, padding) and those it refuses."""

import math

import jaxtyping
import pytest
import torch

from opsd.kl import KLConfig, exact_kl
from tests.opsd.helpers.kl_cases import assert_matches, make_case, run


def test_models_may_differ_in_width_and_have_biases():
    case = make_case(student_width=8, teacher_width=5)
    noise = torch.Generator().manual_seed(2)
    for role in ("student", "teacher"):
        case[f"{role}_bias"] = torch.randn(37, generator=noise, dtype=torch.float64)
    assert_matches(case, KLConfig(temperature=1.7), chunk_tokens=4)


@pytest.mark.parametrize("fill", [1e3, math.nan])
def test_padding_is_ignored(fill):
    case = make_case(vocab=37)
    expected, (expected_hidden, expected_head) = run(case)
    padded = dict(case)
    for role, rows in (("student", 3), ("teacher", 11)):
        padding = torch.full((rows, 8), fill, dtype=torch.float64)
        padded[f"{role}_head"] = torch.cat([case[f"{role}_head"], padding])
        padded[f"{role}_bias"] = torch.cat([torch.zeros(37), torch.full((rows,), fill)]).double()
    out, (hidden_gradient, head_gradient, bias_gradient) = run(padded, vocab_size=37)
    torch.testing.assert_close(out.loss, expected.loss)
    torch.testing.assert_close(hidden_gradient, expected_hidden)
    torch.testing.assert_close(head_gradient[:37], expected_head)
    assert (head_gradient[37:] == 0).all() and (bias_gradient[37:] == 0).all()
    assert torch.equal(out.top1_agreement, expected.top1_agreement)
    torch.testing.assert_close(out.student_entropy, expected.student_entropy)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"student_hidden": torch.ones(1, 13, 8)}, "student_hidden has shape (1, 13, 8), expected two"),
        ({"teacher_head": torch.ones(37)}, "teacher_head has shape (37,), expected two dimensions"),
        (
            {"teacher_hidden": torch.ones(12, 8)},
            "teacher_hidden has shape (12, 8), expected (13, 8): as many",
        ),
        ({"student_head": torch.ones(37, 9)}, "student_head has shape (37, 9), expected (37, 8): the width"),
        ({"teacher_head": torch.ones(37, 9)}, "teacher_head has shape (37, 9), expected (37, 8): the width"),
        ({"student_bias": torch.ones(36)}, "student_bias has shape (36,), expected (37,): one"),
        ({"teacher_bias": torch.ones(36)}, "teacher_bias has shape (36,), expected (37,): one"),
        ({"weights": torch.ones(13, 1)}, "weights has shape (13, 1), expected (13,): one number"),
        ({"weights": torch.ones(13, dtype=torch.long)}, "weights has dtype torch.int64, expected a float"),
        ({"weights": torch.ones(13, requires_grad=True)}, "weights requires a gradient, expected a constant"),
        ({"targets": torch.ones(12).long()}, "targets has shape (12,), expected (13,): one token id"),
        ({"targets": torch.ones(13)}, "targets has dtype torch.float32, expected an integer dtype"),
        ({"targets": torch.full((13,), 37)}, "targets holds 37 at a token of non-zero weight, expected 0"),
        ({"targets": torch.full((13,), -100)}, "targets holds -100 at a token of non-zero weight, expected 0"),
        ({"teacher_head": torch.ones(40, 8)}, "teacher_head has 40 rows, expected the 37 of student_head"),
        ({"vocab_size": 38}, "vocab_size is 38, expected 1 to 37: the rows of the shorter head"),
        ({"vocab_size": 0}, "vocab_size is 0, expected 1 to 37: the rows of the shorter head"),
        ({"chunk_tokens": 0}, "chunk_tokens is 0, expected None or at least 1"),
        ({"teacher_head": torch.ones(37, 8, device="meta")}, "teacher_head is on meta, expected cpu"),
    ],
    ids=lambda x: x[:40] if isinstance(x, str) else "",
)
def test_bad_arguments_are_refused(bad, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse them first
    with pytest.raises(ValueError) as error:
        exact_kl(**(make_case(dtype=torch.float32) | bad))
    assert str(error.value).startswith(message)
