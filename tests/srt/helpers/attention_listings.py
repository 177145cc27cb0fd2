"""Counts how often models are run to list their attention calls."""

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def counted_listings() -> Iterator[list[nn.Module]]:
    """In the block, the embeddings that were called with two tokens of one sequence, in a growing list."""
    embeddings: list[nn.Module] = []

    def look(module, inputs):
        if isinstance(module, nn.Embedding) and inputs[0].shape == (1, 2):
            embeddings.append(module)

    handle = nn.modules.module.register_module_forward_pre_hook(look)
    try:
        yield embeddings
    finally:
        handle.remove()
