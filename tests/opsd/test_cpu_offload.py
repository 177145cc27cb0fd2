"""Tensors that leave their memory and return, on the CPU; tests/gpu/test_nemo_rl_on_gpu.py covers GPUs."""

import pytest
import torch

from opsd.cpu_offload import PinnedCpuCopies


@pytest.fixture
def tensors():
    """Two of their own, two names of one storage, a view that begins inside its storage, and an empty one."""
    first, second = torch.randn(3, 5), torch.randn(7).bfloat16()
    padded = torch.randn(4, 2)
    return {"embedding": first, "norm": second, "head": first, "shard": padded[1:3], "none": padded.new_empty(0)}


def memory(tensors):
    return {name: tensor.untyped_storage().nbytes() for name, tensor in tensors.items()}


def assert_bitwise(tensors, expected):
    for name, tensor in tensors.items():
        assert torch.equal(tensor, expected[name]), name


def test_tensors_and_views_of_them_come_back_bit_for_bit(tensors):
    expected, before = {name: tensor.clone() for name, tensor in tensors.items()}, memory(tensors)
    view = tensors["embedding"][1]
    host = PinnedCpuCopies()
    for _ in range(2):  # the second time in the memory of the first
        host.offload(tensors)
        host.offload(tensors)  # they are off already
        assert not any(memory(tensors).values())
        host.onload(tensors)
        host.onload(tensors)
        assert memory(tensors) == before
        assert_bitwise(tensors, expected)
        assert torch.equal(view, expected["embedding"][1])
        tensors["norm"].add_(1)
        expected["norm"].add_(1)


def test_tensors_that_come_later_are_taken_along(tensors):
    """Adam's averages exist after the first update only."""
    host = PinnedCpuCopies()
    later = {"norm": tensors.pop("norm")}
    host.offload(tensors)
    expected = later["norm"].clone()
    host.offload(tensors | later)
    assert not any(memory(tensors | later).values())
    host.onload(tensors | later)
    assert torch.equal(later["norm"], expected)


def test_what_is_saved_can_be_overwritten_and_restored(tensors):
    expected = {name: tensor.clone() for name, tensor in tensors.items()}
    host = PinnedCpuCopies()
    host.save(tensors)
    for tensor in tensors.values():
        tensor.zero_()
    host.restore(tensors)
    assert_bitwise(tensors, expected)
