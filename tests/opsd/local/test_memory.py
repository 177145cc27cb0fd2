"""What a step leaves in memory for the sampler."""

import gc

import torch

from opsd.pairs import build_pair
from tests.opsd.helpers.problems import PROBLEMS


def test_no_gradients_live_through_generation(open_run, tiny_checkpoint, five_pairs):
    opened = open_run(tiny_checkpoint, PROBLEMS, lr=1e-3)
    opened.engine.optimizer_step.run(five_pairs)
    assert all(parameter.grad is None for parameter in opened.engine.student.model.parameters())


def tensors() -> list[torch.Tensor]:
    return [x for x in gc.get_objects() if isinstance(x, torch.Tensor)]


def test_the_gradient_of_the_head_is_freed_before_the_next_micro_batch(
    open_run, tiny_checkpoint, make_rollout, layout, monkeypatch
):
    """In the student's forward pass, no [V, H] tensor but the weights is held by Python, except by other tests."""
    others = tensors()
    opened = open_run(tiny_checkpoint, PROBLEMS, lr=1e-60, tokens_per_micro_batch=1)
    pairs = [build_pair(make_rollout(text), layout, 1000) for text in ("1 + 1", "1 + 1 + 1", "1")]
    student = opened.engine.student
    shape = student.model.get_output_embeddings().weight.shape
    held = {x.data_ptr() for x in others if x.shape == shape}
    forward, counts = student.hidden, []

    def counted(*arguments):
        gc.collect()
        counts.append(len({x.data_ptr() for x in tensors() if x.shape == shape} - held))
        return forward(*arguments)

    monkeypatch.setattr(student, "hidden", counted)
    opened.engine.optimizer_step.run(pairs)
    assert len(counts) == 3
    assert counts == [
        2,
        2,
        2,
    ]  # the tied weights of student and teacher; Python does not see accumulated gradients
