"""KLConfig.clip: the loss and gradient of min(kl, clip) for each token."""

import pytest
import torch

from opsd.kl import KLConfig
from tests.opsd.helpers.kl_cases import KINDS, assert_matches, make_case, naive, relative_error, run


def clip_at_median(case, **config):
    """A clip that half of the tokens exceed."""
    values = naive(case, KLConfig(**config))[1].sort().values
    middle = len(values) // 2
    return KLConfig(**config, clip=float(values[middle - 1 : middle + 1].mean()))


@pytest.mark.parametrize("more", [{}, {"temperature": 0.7}, {"topk": 5}, {"topk": 5, "topk_tail": False}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_the_naive_minimum(kind, more):
    case = make_case(scale=3.0)
    config = clip_at_median(case, kind=kind, **more)
    out, gradients = assert_matches(case, config, chunk_tokens=4)
    clipped = out.token_kl > config.clip
    assert 3 <= clipped.sum() <= 10
    assert not gradients[0][clipped].any() and gradients[0][~clipped].any(1).all()
    unclipped, _ = run(case, config=KLConfig(kind, **more))
    assert torch.equal(out.token_kl, unclipped.token_kl)  # the value that is reported stays what it is
    assert out.loss < unclipped.loss


def test_a_clip_above_all_tokens_changes_nothing():
    case = make_case(scale=3.0)
    (loose, gradients), (unclipped, expected) = (run(case, config=KLConfig(clip=clip)) for clip in (1e3, None))
    assert loose.loss == unclipped.loss
    assert all(map(torch.equal, gradients, expected))


def test_skipped_vocab_entries_are_those_of_the_tokens_that_are_left():
    case = make_case(tokens=24, vocab=4000, student_width=64, teacher_width=64, scale=4.0, dtype=torch.float32)
    config = clip_at_median(case)
    out, gradients = run(case, config=config, grad_eps=1e-5)
    assert not gradients[0][out.token_kl > config.clip].any()
    for actual, expected in zip(gradients, naive(case, config)[2], strict=True):
        assert relative_error(actual, expected) <= 5e-3


@pytest.mark.parametrize("clip", [0.0, -1.0, float("inf"), float("nan")])
def test_a_clip_that_is_none_is_refused(clip):
    with pytest.raises(ValueError, match="clip is "):
        KLConfig(clip=clip)
