"""Learning-rate schedules: every update changes the weights, and the curves are transformers' apart from that."""

import pytest
import torch
from torch.optim.lr_scheduler import LinearLR
from transformers import get_scheduler

from srt.common.lr_schedule import KINDS, lr_factor


def factors(kind, warmup, total):
    factor = lr_factor(kind, warmup, total)
    return [factor(update) for update in range(total)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("warmup", "total"), [(0, 1), (1, 1), (5, 3), (3, 10), (0, 10)])
def test_no_update_has_a_learning_rate_of_zero(kind, warmup, total):
    assert all(0 < factor <= 1 for factor in factors(kind, warmup, total))


@pytest.mark.parametrize("kind", KINDS)
def test_warm_up_rises_in_equal_steps_to_the_peak(kind):
    assert factors(kind, 3, 10)[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_warm_up_with_a_start_is_torchs_linear_lr(kind):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = LinearLR(optimizer, start_factor=0.1, total_iters=20)
    factor = lr_factor(kind, 20, 100, warmup_start=0.1)
    for update in range(21):
        assert factor(update) == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert lr_factor(kind, 0, 10, warmup_start=0.1)(0) == 1  # without a warm-up


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("warmup", [0, 4])
def test_after_the_warm_up_the_curve_is_that_of_transformers(kind, warmup):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = get_scheduler(kind, optimizer, warmup, 20)
    expected = []
    for _ in range(20):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert factors(kind, warmup, 20)[warmup:] == pytest.approx(expected[warmup:])


def test_another_schedule_is_refused():
    with pytest.raises(ValueError, match="'step' is unknown, expected one of linear, cosine"):
        lr_factor("step", 0, 10)
