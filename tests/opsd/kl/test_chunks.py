"""Chunks of tokens: results do not depend on them, memory does, and tokens of weight zero are left out."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from opsd.kl import KLConfig, chunks
from tests.opsd.helpers.kl_cases import assert_matches, make_case, naive, relative_error, run


@pytest.mark.parametrize("chunk_tokens", [1, 4, 12, 13, 1000, None])
def test_chunk_size_does_not_matter(chunk_tokens):
    case = make_case(tokens=13)
    targets = torch.arange(13)
    whole, whole_gradients = run(case, targets=targets, chunk_tokens=13)
    out, gradients = run(case, targets=targets, chunk_tokens=chunk_tokens)
    for name in ("token_kl", "student_entropy", "teacher_entropy", "student_logprob", "teacher_logprob"):
        torch.testing.assert_close(getattr(out, name), getattr(whole, name))
    assert torch.equal(out.top1_agreement, whole.top1_agreement)
    torch.testing.assert_close(out.loss, whole.loss)
    torch.testing.assert_close(gradients, whole_gradients)


class LargestTensor(TorchDispatchMode):
    """Records the most elements any operation's result had."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else [result]:
            if isinstance(x, torch.Tensor):
                self.numel = max(self.numel, x.numel())
        return result


def largest_in(function):
    with LargestTensor() as largest:
        function()
    return largest.numel


@pytest.mark.parametrize(
    "config",
    [KLConfig(), KLConfig("jsd"), KLConfig("mixed", temperature=2.0), KLConfig(topk=4)],
    ids=lambda config: f"{config.kind}-{config.topk}",
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_tensor_holds_the_logits_of_all_tokens(config, dtype):
    tokens, vocab, width, chunk = 96, 512, 4, 8
    case = make_case(tokens, vocab, width, width, dtype=dtype)
    allowed = max(chunk * vocab, vocab * width, tokens * width)
    assert largest_in(lambda: naive(case)) >= tokens * vocab  # the measure sees what it should
    targets = torch.zeros(tokens, dtype=torch.long)
    assert largest_in(lambda: run(case, config=config, targets=targets, chunk_tokens=chunk)) <= allowed


def test_default_chunk_stays_within_the_documented_budget(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 4096)
    case = make_case(96, 512, 4, 4, dtype=torch.bfloat16)
    assert largest_in(lambda: run(case)) == 4096
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 300)  # one token at a time, lm_heads in pieces
    with LargestTensor() as largest:
        out, gradients = run(case, with_stats=False)
    assert largest.numel == 512 * 4
    loss, _, expected, _ = naive(case)
    assert relative_error(out.loss, loss) <= 1e-5
    assert all(relative_error(x, y) <= 3e-3 for x, y in zip(gradients, expected, strict=True))


def test_zero_weight_tokens_contribute_nothing_even_when_not_finite():
    case = make_case(tokens=9)
    case["weights"][[0, 4, 8]] = 0.0
    targets = torch.arange(9)
    kept = torch.tensor([1, 2, 3, 5, 6, 7])
    per_token = ("student_hidden", "teacher_hidden", "weights")
    only_kept = {name: x[kept] if name in per_token else x for name, x in case.items()}
    expected, (expected_hidden, expected_head) = run(only_kept, targets=targets[kept], chunk_tokens=4)

    case["student_hidden"][0], case["student_hidden"][4] = math.inf, math.nan
    case["teacher_hidden"][8] = -math.inf
    targets[4] = -100
    out, (hidden_gradient, head_gradient) = run(case, targets=targets, chunk_tokens=4)
    assert torch.equal(out.loss, expected.loss)
    assert torch.equal(head_gradient, expected_head)
    assert torch.equal(hidden_gradient[kept], expected_hidden)
    assert (hidden_gradient[[0, 4, 8]] == 0).all()
    for name in ("token_kl", "student_entropy", "teacher_entropy", "student_logprob", "top1_agreement"):
        assert torch.equal(getattr(out, name)[kept], getattr(expected, name))
        assert (getattr(out, name)[[0, 4, 8]] == 0).all()


def test_weights_multiply_tokens_and_may_be_negative():
    case = make_case()
    case["weights"] = torch.linspace(-1.0, 1.9, 13, dtype=torch.float64)
    assert_matches(case)


@pytest.mark.parametrize("tokens", [0, 3])
def test_nothing_to_learn_from_gives_a_differentiable_zero(tokens):
    case = make_case(tokens=tokens)
    case["weights"].zero_()
    out, gradients = run(case, targets=torch.zeros(tokens, dtype=torch.long))
    assert out.loss.item() == 0.0
    assert out.token_kl.shape == out.student_logprob.shape == out.top1_agreement.shape == (tokens,)
    assert all((x == 0).all() for x in gradients)
    assert [x.shape for x in gradients] == [case["student_hidden"].shape, case["student_head"].shape]
