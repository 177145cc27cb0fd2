"""A checkpoint of each family, and what its model computes naively: each sequence alone, in float64, eagerly."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.families.models import ALL, naive_model, tiny


def pytest_collection_modifyitems(config, items):
    """Rare families run only when -m names them."""
    if "rare_families" not in config.option.markexpr:
        rare = [item for item in items if item.get_closest_marker("rare_families")]
        config.hook.pytest_deselected(items=rare)
        items[:] = [item for item in items if item not in set(rare)]


@pytest.fixture(scope="session", params=ALL)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def checkpoint(family, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(family)
    tiny(family)[1].save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def reference(checkpoint):
    return naive_model(checkpoint)


@pytest.fixture(scope="session")
def naive_logprobs(reference) -> Callable[..., Tensor]:
    """(ids, temperature) -> (T - 1, V), before each token but the first: log_softmax(logits / temperature)."""

    def naive_logprobs(ids: list[int], temperature: float = 1.0) -> Tensor:
        logits = reference(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
        return torch.log_softmax(logits.double() / temperature, -1)

    return naive_logprobs
